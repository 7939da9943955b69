"""Every recipe of projects/DenseCL and its CPU-sized twin: loads, builds, and the twin trains."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from PIL import Image

from densessl.config import load_config

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "projects" / "DenseCL" / "configs").glob("*.py"))
TWINS = [ROOT / "configs" / "quick_schedules" / f"{path.stem}_quick.py" for path in RECIPES]

# method, depth, epochs, images, batch, lr
EXPECTED = {
    "densecl_R_101_imagenet_200ep": ("DenseCL", 101, 200, 1281167, 256, 0.03),
    "densecl_R_50_coco_1600ep": ("DenseCL", 50, 1600, 118287, 256, 0.3),
    "densecl_R_50_coco_800ep": ("DenseCL", 50, 800, 118287, 256, 0.3),
    "densecl_R_50_imagenet_200ep": ("DenseCL", 50, 200, 1281167, 256, 0.03),
    "moco_v2_R_50_coco_800ep": ("MoCo", 50, 800, 118287, 256, 0.3),
    "moco_v2_R_50_imagenet_200ep": ("MoCo", 50, 200, 1281167, 256, 0.03),
    "moco_v2_R_50_imagenet_800ep": ("MoCo", 50, 800, 1281167, 256, 0.03),
    "simsiam_R_50_coco_800ep": ("SimSiam", 50, 800, 118287, 512, 0.1),
    "simsiam_R_50_imagenet_100ep": ("SimSiam", 50, 100, 1281167, 512, 0.1),
}


def by_name(paths):
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


def test_every_recipe_is_known_here():
    assert [path.stem for path in RECIPES] == sorted(EXPECTED)


@by_name(RECIPES)
def test_recipe(path):
    method, depth, epochs, images, batch, lr = EXPECTED[path.stem]
    cfg = load_config(str(path))
    assert cfg.dataloader.train.total_batch_size == batch
    assert cfg.optimizer.lr == pytest.approx(lr)
    assert (cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.9, 1e-4)
    steps_per_epoch = images // batch
    assert cfg.train.max_iter == epochs * steps_per_epoch
    assert (
        "coco_2017_train_images" if images == 118287 else "imagenet_1k_train"
    ) == cfg.dataloader.train.dataset.source
    assert path.stem in cfg.train.output_dir

    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert type(model).__name__ == method
    assert sum(len(stage) for stage in model.backbone.stages) == {50: 16, 101: 33}[depth]
    if method != "SimSiam":
        model.validate_batch(batch, 8)
        assert model.queue.shape == (65536, 128)
        assert cfg.model.dataset_size == images

    multiplier = instantiate(cfg.lr_multiplier)
    for epoch in (0, 1, epochs - 1):  # once per epoch, cosine to (almost) zero
        cosine = 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        for step in (0, steps_per_epoch - 1):
            progress = (epoch * steps_per_epoch + step) / cfg.train.max_iter
            assert multiplier(progress) == pytest.approx(cosine, abs=1e-12)

    cfg.optimizer.params.model = model
    groups = instantiate(cfg.optimizer.params)
    constant = {name for group in groups if group["fixed_lr"] for name in group["param_names"]}
    assert constant == {
        name
        for name, _ in model.named_parameters()
        if method == "SimSiam" and name.startswith("prediction_head.")
    }
    assert all(group["weight_decay"] == 1e-4 for group in groups)
    trained = {name for group in groups for name in group["param_names"]}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    for index in range(16):
        pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{index:02d}.jpg")
    return folder


@by_name(TWINS)
def test_twin_trains(path, photographs):
    cfg = load_config(str(path), [f"dataloader.train.dataset.source={photographs}"])
    assert (cfg.train.max_iter, cfg.train.device) == (10, "cpu")
    model = instantiate(cfg.model).train()
    if hasattr(model, "validate_batch"):
        model.validate_batch(cfg.dataloader.train.total_batch_size, 1)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = iter(instantiate(cfg.dataloader.train))
    before = model.backbone.stem.conv1.weight.clone()
    for _ in range(2):
        batch = next(loader)
        assert [view.shape for view in batch["views"]] == [(8, 3, 64, 64)] * 2
        loss = sum(model(batch).values())
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if hasattr(model, "after_optimizer_step"):
            model.after_optimizer_step()
    assert not torch.equal(model.backbone.stem.conv1.weight, before)
