"""Every leaf recipe has a CPU-sized twin; detection twins train two iterations, evaluate, save and resume."""

import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.cityscapes import load_cityscapes_instances
from detectron2.data.datasets.pascal_voc import CLASS_NAMES, register_pascal_voc
from omegaconf import OmegaConf

from densessl.checkpoint.files import POINTER
from densessl.config import load_config
from densessl.engine import defaults
from densessl.engine.model_transforms import replace_sync_bn
from densessl.evaluation.cityscapes_evaluation import CityscapesInstanceEvaluator
from densessl.evaluation.voc_evaluation import PascalVOCDetectionEvaluator

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
TWINS = ROOT / "configs/quick_schedules"
LEAVES = sorted(
    path
    for pattern in ("configs/*/*.py", "projects/*/configs/*.py")
    for path in ROOT.glob(pattern)
    if path.parent.name not in ("benchmarks", "common", "quick_schedules", "quickstart")
)
# Same model, data and optimiser as another twin: only the schedule or the depth, which twins shrink, differs.
SAME_AS = {
    "faster_rcnn_R_50_C4_24k_warmup1000": "faster_rcnn_R_50_C4_24k",
    "faster_rcnn_R_101_C4_24k": "faster_rcnn_R_50_C4_24k",
    "mask_rcnn_R_50_C4_2x": "mask_rcnn_R_50_C4_1x",
    "mask_rcnn_R_50_FPN_2x_2fc": "mask_rcnn_R_50_FPN_1x_2fc",
    "mask_rcnn_R_50_FPN_2x_4conv1fc": "mask_rcnn_R_50_FPN_1x_4conv1fc",
    "retinanet_R_50_FPN_2x": "retinanet_R_50_FPN_1x",
}
CITYSCAPES, SAME_MODEL = "mask_rcnn_R_50_FPN_24k", "mask_rcnn_R_50_FPN_1x_2fc"
NAIVE = "faster_rcnn_R_50_C4_24k_naive_sync_bn"
RUNS = {  # twin -> tasks of its evaluation
    "faster_rcnn_R_50_C4_25k_frozen_bn": {"bbox"},
    "mask_rcnn_R_50_C4_1x": {"bbox", "segm"},
    "mask_rcnn_R_50_FPN_1x_4conv1fc": {"bbox", "segm"},
    "retinanet_R_50_FPN_1x": {"bbox"},
    "fcos_R_50_FPN_1x": {"bbox"},
    "keypoint_rcnn_R_50_FPN_2x": {"bbox", "keypoints"},
    # on data in their own format
    "faster_rcnn_R_50_C4_24k": {"bbox"},
    CITYSCAPES: {"segm"},
    NAIVE: {"bbox"},
    SAME_MODEL: {"bbox", "segm"},
    "mask_rcnn_R_50_FPN_10pct_4conv1fc": {"bbox", "segm"},
}
RUNS |= {name: RUNS.get(other, {"bbox", "segm"}) for name, other in SAME_AS.items()}


def twin(name):
    return load_config(str(TWINS / f"{name}_quick.py"))


def unresolved(node):
    return OmegaConf.to_container(node, resolve=False)


def test_every_leaf_recipe_has_a_twin_and_every_twin_a_recipe():
    twins = {path.stem.removesuffix("_quick"): path for path in TWINS.glob("*.py")}
    # Mask R-CNN has the same name on COCO's and on LVIS's data
    leaves = {("lvis_" if "LVIS" in path.parent.name else "") + path.stem: path for path in LEAVES}
    assert len(leaves) == len(LEAVES), "two recipes of one name"
    assert sorted(twins) == sorted(leaves)
    for name, path in leaves.items():
        assert f"twin of {path.relative_to(ROOT)}:" in twins[name].read_text()


@pytest.mark.parametrize("name", RUNS)
def test_twin_is_the_recipe_made_small(name):
    (path,) = (path for path in LEAVES if path.stem == name)
    small, full = twin(name), load_config(str(path))
    assert (small.train.max_iter, small.train.device, small.train.amp.enabled) == (10, "cpu", False)
    assert small.train.output_dir == f"output/quick/{name}"
    assert unresolved(small.lr_multiplier) == unresolved(full.lr_multiplier)
    assert len(small.train.hooks) == len(full.train.hooks)
    mapper, other = small.dataloader.train.mapper, full.dataloader.train.mapper
    for key in ("image_format", "use_instance_mask", "use_keypoint"):
        assert mapper.get(key) == other.get(key)
    with torch.device("meta"):
        models = [instantiate(cfg.model) for cfg in (small, full)]
    assert type(models[0]) is type(models[1])
    own, whole = ({type(m) for m in model.modules()} for model in models)
    # ResNet-18 has basic blocks; a frozen trunk has no other norm
    assert {t.__name__ for t in own ^ whole} <= {"BasicBlock", "BottleneckBlock"}
    assert sum(p.numel() for p in models[0].parameters()) < 22e6


@pytest.mark.parametrize("name", SAME_AS)
def test_twins_that_differ_in_the_schedule_only(name):
    small, other = twin(name), twin(SAME_AS[name])
    for noun in ("model", "optimizer", "dataloader"):
        assert unresolved(small[noun]) == unresolved(other[noun]), noun


def test_cityscapes_and_2fc_twin_have_the_same_model():
    assert unresolved(twin(CITYSCAPES).model) == unresolved(twin(SAME_MODEL).model)


def test_on_cpu_the_naive_twin_is_the_other_one():
    """Without a GPU the trainer puts naiveSyncBN for SyncBN."""
    with torch.device("meta"):
        naive, sync = (instantiate(twin(name).model) for name in (NAIVE, "faster_rcnn_R_50_C4_24k"))
        assert replace_sync_bn(naive) == 0
        assert replace_sync_bn(sync) > 20
    assert repr(naive) == repr(sync)


@pytest.fixture(scope="module")
def coral(tmp_path_factory):
    """A small `coral` in the real layout, in the place of any other that this process has seen."""
    sys.path.insert(0, str(ROOT / "tests/datasets"))
    from builders import fake_sdist, load_script

    from densessl.data.datasets.sample_writer import build_atomically, sha256_of

    root = tmp_path_factory.mktemp("datasets")
    sdist = fake_sdist(root / "sdist.tar.gz")
    script = load_script("prepare_coral")
    build_atomically(root / "coral", lambda folder: script.build(folder, 80, sdist, sha256_of(sdist)))
    names = ("coral_train", "coral_val")
    before = {name: MetadataCatalog.pop(name) for name in names if name in MetadataCatalog}
    yield root
    for name in names:
        MetadataCatalog.pop(name, None)
    MetadataCatalog.update(before)


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """Registers small sets in the formats of VOC, Cityscapes and COCO keypoints: twins_<format>."""
    sys.path.insert(0, str(ROOT / "tests/evaluation"))
    from format_builders import write_cityscapes, write_keypoints, write_voc

    root = tmp_path_factory.mktemp("formats")
    boxes = [(11, 21, 60, 90), (100, 50, 180, 120), (5, 5, 50, 60), (20, 30, 150, 140)]
    truth = {f"{i:06d}": [(CLASS_NAMES[4 * i], boxes[i]), (CLASS_NAMES[1], boxes[-i])] for i in range(4)}
    write_voc(root / "voc", truth, "trainval")
    register_pascal_voc("twins_voc", str(root / "voc"), "trainval", 2007)
    write_cityscapes(root / "cityscapes", "val")
    images, gt = str(root / "cityscapes/leftImg8bit/val"), str(root / "cityscapes/gtFine/val")
    DatasetCatalog.register("twins_cityscapes", lambda: load_cityscapes_instances(images, gt))
    classes = MetadataCatalog.get("cityscapes_fine_instance_seg_val").thing_classes
    MetadataCatalog.get("twins_cityscapes").set(image_dir=images, gt_dir=gt, thing_classes=classes)
    MetadataCatalog.get("twins_cityscapes").set(evaluator_type="cityscapes_instance")
    path = write_keypoints(root / "persons", images=4)
    metadata = _get_builtin_metadata("coco_person")
    register_coco_instances("twins_keypoints", metadata, str(path), str(root / "persons/images"))
    names = ("twins_voc", "twins_cityscapes", "twins_keypoints")
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def use_own_format(name, cfg):
    """Puts data of the recipe's format, and its evaluator, in the place of `coral`."""
    kind = {"faster_rcnn_R_50_C4_24k": "voc", CITYSCAPES: "cityscapes"}.get(name)
    if name.startswith("keypoint"):
        kind = "keypoints"
    if kind is None:
        return
    cfg.dataloader.train.dataset.names = cfg.dataloader.test.dataset.names = f"twins_{kind}"
    cfg.dataloader.train.mapper.instance_mask_format = "polygon"
    if kind == "voc":
        cfg.model.roi_heads.num_classes = 20
        cfg.dataloader.evaluator = L(PascalVOCDetectionEvaluator)(dataset_name="twins_voc")
    elif kind == "cityscapes":
        cfg.model.roi_heads.num_classes = 8
        cfg.dataloader.evaluator = L(CityscapesInstanceEvaluator)(dataset_name="twins_cityscapes")


def small_run(name, output):
    """The twin's config for two iterations at 64 pixels, a checkpoint after each."""
    cfg = twin(name)
    use_own_format(name, cfg)
    cfg.train.output_dir, cfg.train.max_iter, cfg.train.checkpointer.period = str(output), 2, 1
    cfg.dataloader.train.mapper.augmentations[0].short_edge_length = (56, 64)
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = 64
    if "roi_heads" in cfg.model:
        cfg.model.roi_heads.box_predictor.test_topk_per_image = 5
    return cfg


def final_state(output):
    content = torch.load(output / "model_final.pth", weights_only=True)
    assert content["iteration"] == 2
    momenta = {k: v["momentum_buffer"] for k, v in content["optimizer"]["state"].items()}
    return content["model"], momenta


@pytest.mark.parametrize("name", RUNS)
def test_twin_trains_evaluates_saves_and_resumes(name, coral, formats, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(coral))
    results = defaults.run(small_run(name, tmp_path / "run"), Namespace(resume=False, eval_only=False))
    assert set(results) == RUNS[name]
    assert all(0 <= value <= 100 for task in results.values() for value in task.values())
    assert json.loads((tmp_path / "run/evaluation.json").read_text())["results"] == results
    weights, momenta = final_state(tmp_path / "run")

    for file in ("model_0000002.pth", "model_final.pth"):  # as if it had stopped after one iteration
        (tmp_path / "run" / file).unlink()
        (tmp_path / "run" / f"{file}.json").unlink()
    (tmp_path / "run" / POINTER).write_text("model_0000001.pth")
    again = defaults.run(small_run(name, tmp_path / "run"), Namespace(resume=True, eval_only=False))
    assert again == results
    resumed, resumed_momenta = final_state(tmp_path / "run")
    assert [key for key, value in weights.items() if not torch.equal(value, resumed[key])] == []
    assert [key for key, value in momenta.items() if not torch.equal(value, resumed_momenta[key])] == []
    shutil.rmtree(tmp_path / "run")
