"""Detection recipes: published values, keys of the published detectors, and CPU-sized twins that train."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from densessl.config import load_config

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/data/golden/checkpoints"
COCO, VOC = "COCO-InstanceSegmentation", "PascalVOC-Detection"
RECIPES = {
    "mask_rcnn_R_50_FPN_1x_2fc": COCO,
    "mask_rcnn_R_50_FPN_2x_2fc": COCO,
    "mask_rcnn_R_50_FPN_1x_4conv1fc": COCO,
    "mask_rcnn_R_50_FPN_2x_4conv1fc": COCO,
    "mask_rcnn_R_50_FPN_10pct_4conv1fc": COCO,
    "faster_rcnn_R_50_C4_24k": VOC,
}
QUICKSTART = sorted(path.stem for path in (ROOT / "configs/quickstart").glob("mask_rcnn*.py"))


def load(name, folder=None):
    return load_config(str(ROOT / "configs" / (folder or RECIPES[name]) / f"{name}.py"))


def norms(model):
    """Names of modules by type of normalisation."""
    found = {}
    for name, module in model.named_modules():
        if "Norm" in type(module).__name__:
            found.setdefault(type(module).__name__, []).append(name)
    return found


def learning_rates(cfg, iterations):
    multiplier = instantiate(cfg.lr_multiplier)
    return [cfg.optimizer.lr * multiplier(i / cfg.train.max_iter) for i in iterations]


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("mask_rcnn_R_50_FPN_1x_4conv1fc", "densecl_target_detectron2_mask_rcnn_fpn_r50.json"),
        ("faster_rcnn_R_50_C4_24k", "densecl_target_detectron2_faster_rcnn_c4_r50.json"),
    ],
)
def test_state_dict_has_the_published_names_and_shapes(name, golden):
    model = instantiate(load(name).model)
    own = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert own == json.loads((GOLDEN / golden).read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_common_values(name):
    cfg = load(name)
    assert set(cfg) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.02, 0.9, 1e-4)
    assert cfg.optimizer.params.weight_decay_norm == 0.0
    assert cfg.dataloader.train.total_batch_size == 16
    assert cfg.dataloader.train.aspect_ratio_grouping
    assert cfg.model.input_format == cfg.dataloader.train.mapper.image_format == "RGB"
    assert cfg.model.pixel_mean == [123.675, 116.28, 103.53]
    assert cfg.model.pixel_std == [58.395, 57.12, 57.375]
    resize = cfg.dataloader.train.mapper.augmentations[0]
    smallest = 480 if RECIPES[name] == VOC else 640
    assert list(resize.short_edge_length) == list(range(smallest, 801, 32))
    assert (resize.sample_style, resize.max_size) == ("choice", 1333)
    (test_resize,) = cfg.dataloader.test.mapper.augmentations
    assert (test_resize.short_edge_length, test_resize.max_size) == (800, 1333)


@pytest.mark.parametrize(
    ("name", "max_iter", "steps", "warmup"),
    [
        ("mask_rcnn_R_50_FPN_1x_2fc", 90000, (60000, 80000), 1000),
        ("mask_rcnn_R_50_FPN_1x_4conv1fc", 90000, (60000, 80000), 1000),
        ("mask_rcnn_R_50_FPN_10pct_4conv1fc", 90000, (60000, 80000), 1000),
        ("mask_rcnn_R_50_FPN_2x_2fc", 180000, (120000, 160000), 1000),
        ("mask_rcnn_R_50_FPN_2x_4conv1fc", 180000, (120000, 160000), 1000),
        ("faster_rcnn_R_50_C4_24k", 24000, (18000, 22000), 100),
    ],
)
def test_schedules(name, max_iter, steps, warmup):
    cfg = load(name)
    assert cfg.train.max_iter == max_iter
    rates = learning_rates(cfg, (0, warmup, steps[0] - 1, steps[0], steps[1] - 1, steps[1], max_iter - 1))
    expected = (2e-5, 0.02, 0.02, 0.002, 0.002, 0.0002, 0.0002)
    assert rates == pytest.approx(expected, rel=1e-6)


def test_variants_differ_in_the_heads_only():
    two_fc = instantiate(load("mask_rcnn_R_50_FPN_1x_2fc").model)
    four_conv = instantiate(load("mask_rcnn_R_50_FPN_1x_4conv1fc").model)
    own, other = ({k: v.shape for k, v in m.state_dict().items()} for m in (two_fc, four_conv))
    differing = {k for k in own.keys() | other.keys() if own.get(k) != other.get(k)}
    assert differing
    assert all(k.startswith(("roi_heads.box_head.", "roi_heads.mask_head.")) for k in differing)
    # SyncBN in trunk (53) and pyramid (8); the other variant adds 4 in the box and 4 in the mask head
    assert {k: len(v) for k, v in norms(two_fc).items()} == {"SyncBatchNorm": 61}
    assert {k: len(v) for k, v in norms(four_conv).items()} == {"SyncBatchNorm": 69}


@pytest.mark.parametrize("name", ["mask_rcnn_R_50_FPN_1x_2fc", "faster_rcnn_R_50_C4_24k"])
def test_nothing_is_frozen_and_the_stride_is_in_the_3x3(name):
    model = instantiate(load(name).model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any("Frozen" in kind for kind in norms(model))
    trunk = getattr(model.backbone, "bottom_up", model.backbone)
    stages = [trunk.res3[0], trunk.res4[0]]
    if name.startswith("faster"):
        stages.append(model.roi_heads.res5[0])
    for block in stages:
        assert block.conv1.stride == (1, 1)
        assert block.conv2.stride == (2, 2)


def test_c4_head_applies_the_extra_norm_last():
    cfg = load("faster_rcnn_R_50_C4_24k")
    cfg.model.roi_heads.norm = "BN"
    head = instantiate(cfg.model).roi_heads
    assert type(head.res5[-1]).__name__ == "BatchNorm2d"
    assert head.res5[-1].num_features == 2048
    assert not head.mask_on
    output = head.train().res5(torch.randn(3, 1024, 14, 14))
    assert output.shape == (3, 2048, 7, 7)
    # after a batch norm in training, every channel has mean 0: nothing (no ReLU) follows it
    assert output.mean((0, 2, 3)).abs().max() < 1e-4
    cfg.model.roi_heads.norm = ""
    assert not hasattr(instantiate(cfg.model).roi_heads.res5, "norm")


def batch_of_two(with_masks, classes):
    """Two images of different size with an object each, in detectron2's form."""
    from detectron2.structures import BitMasks, Boxes, Instances

    batch = []
    for height, width in ((96, 128), (128, 96)):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[10.0, 20.0, 60.0, 80.0]]))
        instances.gt_classes = torch.tensor([classes - 1])
        if with_masks:
            mask = torch.zeros(1, height, width, dtype=torch.bool)
            mask[:, 20:80, 10:60] = True
            instances.gt_masks = BitMasks(mask)
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
    return batch


@pytest.mark.parametrize("name", ["mask_rcnn_R_50_FPN_1x_4conv1fc", "faster_rcnn_R_50_C4_24k", *QUICKSTART])
def test_a_training_step_moves_every_parameter_and_inference_runs(name):
    from densessl.engine.model_transforms import replace_sync_bn

    torch.manual_seed(0)
    cfg = load(f"{name}_quick", "quick_schedules") if name in RECIPES else load(name, "quickstart")
    model = instantiate(cfg.model)
    replace_sync_bn(model)
    masks, classes = hasattr(model.roi_heads, "mask_head"), cfg.model.roi_heads.num_classes
    with EventStorage(0):
        losses = model.train()(batch_of_two(masks, classes))
    assert all(name.startswith("loss_") and torch.isfinite(value) for name, value in losses.items())
    assert ("loss_mask" in losses) == masks
    sum(losses.values()).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert still == []
    with torch.no_grad():
        (output, _) = model.eval()(batch_of_two(masks, classes))
    assert output["instances"].image_size == (96, 128)


@pytest.fixture(scope="module")
def coral(tmp_path_factory):
    """A folder with a small `coral` in the real layout."""
    sys.path.insert(0, str(ROOT / "tests/datasets"))
    from builders import fake_sdist, load_script

    from densessl.data.datasets.sample_writer import build_atomically, sha256_of

    root = tmp_path_factory.mktemp("datasets")
    sdist = fake_sdist(root / "sdist.tar.gz")
    script = load_script("prepare_coral")
    build_atomically(root / "coral", lambda folder: script.build(folder, 80, sdist, sha256_of(sdist)))
    return root


def test_twin_trains_evaluates_and_saves(coral, tmp_path):
    """Through the script; all other twins: tests/test_detection_twins.py."""
    name, tasks = "mask_rcnn_R_50_FPN_2x_4conv1fc", "bbox segm"
    command = [sys.executable, "tools/lazyconfig_train_net.py", "--config-file"]
    command += [
        f"configs/quick_schedules/{name}_quick.py",
        "train.max_iter=2",
        f"train.output_dir={tmp_path}/run",
    ]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(coral), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "run/model_final.pth").is_file()
    saved = torch.load(tmp_path / "run/model_final.pth", weights_only=True)
    assert saved["iteration"] == 2
    for task in tasks.split():
        assert f"{task} on coral_val" in done.stdout + done.stderr


@pytest.mark.parametrize("name", QUICKSTART)
def test_quickstart_detectors(name):
    cfg = load(name, "quickstart")
    sample = "coral" if "coral" in name else "cutpaste"
    assert cfg.dataloader.train.dataset.names == f"{sample}_train"
    assert cfg.dataloader.test.dataset.names == cfg.dataloader.evaluator.dataset_name == f"{sample}_val"
    # where the report looks for predictions
    assert cfg.dataloader.evaluator.output_dir == f"{cfg.train.output_dir}/inference"
    assert cfg.model.roi_heads.num_classes == {"coral": 4, "cutpaste": 8}[sample]
    assert bool(cfg.train.init_checkpoint) == name.endswith("densecl")
    random = load(name.replace("densecl", "random"), "quickstart")
    for noun in ("model", "dataloader", "optimizer", "lr_multiplier"):  # same budget, same seeds
        # unresolved: predictions go below each run's own output_dir
        assert OmegaConf.to_container(cfg[noun]) == OmegaConf.to_container(random[noun])
    assert (cfg.train.seed, cfg.train.max_iter) == (random.train.seed, random.train.max_iter)
    model = instantiate(cfg.model)
    assert not any("Frozen" in kind or "Sync" in kind for kind in norms(model))
    trunk = set(instantiate_trunk().state_dict())
    assert {k.removeprefix("backbone.bottom_up.") for k in model.state_dict() if "bottom_up" in k} == trunk
    rates = learning_rates(cfg, (0, cfg.train.max_iter // 10, cfg.train.max_iter - 1))
    assert rates[0] < 0.05 * cfg.optimizer.lr
    assert rates[1] == pytest.approx(cfg.optimizer.lr, rel=0.05)
    assert rates[2] < 1e-4 * cfg.optimizer.lr


def instantiate_trunk():
    """The ResNet-18 that the pretraining methods train."""
    from densessl.modeling.backbone import build_resnet

    return build_resnet(18)
