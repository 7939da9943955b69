"""The SOLOv2 recipe: published values, the pretrained trunk, a twin that trains, resumes and evaluates."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine.train_loop import HookBase
from PIL import Image
from solov2_small import SCENES, scene
from torch.testing import assert_close

from densessl.checkpoint.transfer import load_initial_weights
from densessl.config import load_config
from densessl.data.datasets.sample_writer import CocoWriter, mask_to_rle
from densessl.engine import defaults
from densessl.modeling.backbone import build_resnet

torch.set_num_threads(1)
CONFIGS = Path(__file__).parents[2] / "configs"
RECIPE = str(CONFIGS / "COCO-InstanceSegmentation/solov2_R_50_FPN_1x.py")
TWIN = str(CONFIGS / "quick_schedules/solov2_R_50_FPN_1x_quick.py")


def test_published_values():
    cfg = load_config(RECIPE)
    assert set(cfg) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    # AdelaiDet Base-SOLOv2.yaml
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.01, 0.9, 1e-4)
    assert cfg.optimizer.params.weight_decay_norm == 0.0
    assert (cfg.train.max_iter, cfg.dataloader.train.total_batch_size) == (90000, 16)
    multiplier = instantiate(cfg.lr_multiplier)
    rates = [cfg.optimizer.lr * multiplier(i / 90000) for i in (0, 500, 1000, 59999, 60000, 79999, 80000)]
    assert rates == pytest.approx([1e-4, 0.00505, 0.01, 0.01, 1e-3, 1e-3, 1e-4], rel=1e-6)
    mapper = cfg.dataloader.train.mapper
    assert (mapper.image_format, mapper.use_instance_mask, mapper.instance_mask_format) == (
        "RGB",
        True,
        "bitmask",
    )
    assert list(mapper.augmentations[0].short_edge_length) == list(range(640, 801, 32))
    assert cfg.train.hooks[0].num_iter == 200
    # SOLOv2_R50_1x_DenseCL.yaml
    model = instantiate(cfg.model)
    assert model.input_format == "RGB"
    assert_close(model.pixel_mean.flatten(), torch.tensor([123.675, 116.28, 103.53]))
    assert_close(model.pixel_std.flatten(), torch.tensor([58.395, 57.12, 57.375]))
    assert all(parameter.requires_grad for parameter in model.parameters())
    kinds = [type(module).__name__ for module in model.modules()]
    # trunk 53 and pyramid 8; towers 2 x 4, mask levels 1 + 1 + 2 + 3 and the last convolution
    assert (kinds.count("SyncBatchNorm"), kinds.count("GroupNorm")) == (61, 16)
    assert not any("Frozen" in kind for kind in kinds)
    assert model.backbone.bottom_up.res3[0].conv1.stride == (1, 1)
    assert model.smallest_area.shape == (40**2 + 36**2 + 24**2 + 16**2 + 12**2,)
    assert model.mask_stride == 4


def test_pretrained_trunk_loads_whole(tmp_path):
    cfg = load_config(TWIN, ["model.backbone.bottom_up.depth=18", "model.backbone.bottom_up.norm=BN"])
    cfg.model.backbone.norm = "BN"
    trunk = build_resnet(18)
    path = tmp_path / "pretrained.pth"
    state = {f"backbone.{name}": value for name, value in trunk.state_dict().items()}
    torch.save({"model": {**state, "queue": torch.zeros(4, 4)}}, path)
    model = instantiate(cfg.model)
    report = load_initial_weights(model, str(path))
    assert report.trunk_missing == report.trunk_unused == report.wrong_shape == []
    assert set(report.loaded) == {f"backbone.bottom_up.{name}" for name in trunk.state_dict()}
    for name, value in trunk.state_dict().items():
        assert torch.equal(model.backbone.bottom_up.state_dict()[name], value)


class StopAfter(HookBase):
    """Ends the run as a failure does, before a given iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            raise KeyboardInterrupt


@pytest.fixture
def dataset(tmp_path):
    """Three pictures, the last without objects, registered as COCO; yields the name."""
    writer = CocoWriter(tmp_path, "train", ("a", "b", "c", "d"), "test")
    for index, shapes in enumerate((*SCENES, ())):
        item = scene(shapes, index)
        picture = Image.fromarray(item["image"].permute(1, 2, 0).numpy())
        image_id = writer.add_image(picture, f"{index}.png")
        for mask, shape in zip(item["instances"].gt_masks.tensor if shapes else (), shapes):
            writer.add_instance(image_id, shape[3], mask_to_rle(mask.numpy()))
    writer.write()
    name = "solov2_twin"
    annotations = next(tmp_path.rglob("*train*.json"))
    register_coco_instances(name, {}, str(annotations), str(tmp_path / "images" / "train"))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def run(folder, dataset, *, resume=False, stop=None):
    overrides = [f"train.output_dir={folder}", "train.max_iter=2", "train.checkpointer.period=1"]
    overrides += ["model.backbone.bottom_up.depth=18", "dataloader.train.dataset.filter_empty=False"]
    overrides += [f"dataloader.{part}.names={dataset}" for part in ("train.dataset", "test.dataset")]
    cfg = load_config(TWIN, [*overrides, f"dataloader.evaluator.dataset_name={dataset}"])
    if stop is not None:
        cfg.train.hooks.append(StopAfter(stop))
    return defaults.run(cfg, Namespace(resume=resume, eval_only=False))


def test_twin_trains_saves_resumes_and_evaluates(dataset, tmp_path):
    run(tmp_path / "whole", dataset)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", dataset, stop=1)
    run(tmp_path / "parts", dataset, resume=True)
    whole, parts = (
        torch.load(tmp_path / folder / "model_final.pth", weights_only=True) for folder in ("whole", "parts")
    )
    assert whole["iteration"] == parts["iteration"] == 2
    assert whole["model"].keys() == parts["model"].keys()
    different = [
        name for name, value in whole["model"].items() if not torch.equal(value, parts["model"][name])
    ]
    assert different == []
    assert (tmp_path / "whole/inference/coco_instances_results.json").is_file()
