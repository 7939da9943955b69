"""An evaluator that cannot score its data set is refused by the trainer before a model is built."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

sys.path.insert(0, str(Path(__file__).parent))
import test_cityscapes_evaluation as cityscapes_tests
from format_builders import write_cityscapes, write_keypoints

from densessl.config import load_config
from densessl.engine import defaults
from densessl.errors import ConfigError, DataError
from densessl.evaluation.cityscapes_evaluation import CityscapesInstanceEvaluator
from densessl.evaluation.coco_evaluation import COCOEvaluator

TWINS = Path(__file__).parents[2] / "configs/quick_schedules"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a twin on one data set; building a model is an error of the test."""

    def no_model(*_):
        raise AssertionError("a model was built")

    monkeypatch.setattr(defaults, "build_model", no_model)

    def start(twin, name, evaluator=None, **options):
        cfg = load_config(str(TWINS / f"{twin}_quick.py"), [f"train.output_dir={tmp_path}/run"])
        cfg.dataloader.train.dataset.names = cfg.dataloader.test.dataset.names = name
        if classes := MetadataCatalog.get(name).get("thing_classes"):
            (cfg.model.roi_heads if "roi_heads" in cfg.model else cfg.model).num_classes = len(classes)
        cfg.dataloader.evaluator = evaluator or cfg.dataloader.evaluator
        defaults.run(cfg, Namespace(resume=False, eval_only=False, **options))

    return start


@pytest.fixture
def register():
    """Registers data sets and forgets them afterwards."""
    names = []

    def add(name, function, *arguments):
        names.append(name)
        function(name, *arguments)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_keypoints_without_keypoint_names(run, register, tmp_path):
    path = write_keypoints(tmp_path / "persons")
    name = register("refused_plain", register_coco_instances, {}, str(path), str(tmp_path / "persons/images"))
    with pytest.raises(ConfigError, match="'refused_plain' has no 'keypoint_names' in its metadata"):
        run("keypoint_rcnn_R_50_FPN_2x", name)


def test_keypoints_of_annotations_that_have_none(run, register, tmp_path):
    path = write_keypoints(tmp_path / "persons")
    path.write_text(path.read_text().replace('"keypoints": [', '"points": ['))
    metadata = _get_builtin_metadata("coco_person")
    images = str(tmp_path / "persons/images")
    name = register("refused_boxes", register_coco_instances, metadata, str(path), images)
    with pytest.raises(ConfigError, match="17 keypoints in each annotation"):
        run("retinanet_R_50_FPN_1x", name, L(COCOEvaluator)(dataset_name=name, tasks=("keypoints",)))


def test_cityscapes_without_its_package(run, register, tmp_path, monkeypatch):
    write_cityscapes(tmp_path, "val")
    name = "refused_package"
    register(name, lambda name: cityscapes_tests.register(tmp_path, name))
    monkeypatch.setitem(sys.modules, "cityscapesscripts", None)
    with pytest.raises(
        ConfigError, match=r"'refused_package' needs cityscapesscripts.*densessl\[cityscapes\]"
    ):
        run("mask_rcnn_R_50_FPN_24k", name, L(CityscapesInstanceEvaluator)(dataset_name=name))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("gtFine/val", r"gtFine/val \(gt_dir\) does not exist"),
        ("leftImg8bit/val", r"leftImg8bit/val \(image_dir\) does not exist"),
        (
            "gtFine/val/aachen/aachen_000001_000019_gtFine_polygons.json",
            "annotations of data set 'refused_files'",
        ),
    ],
)
def test_cityscapes_without_files(run, register, tmp_path, removed, message):
    write_cityscapes(tmp_path, "val")
    name = "refused_files"
    register(name, lambda name: cityscapes_tests.register(tmp_path, name))
    (tmp_path / removed).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=message):
        run("mask_rcnn_R_50_FPN_24k", name, L(CityscapesInstanceEvaluator)(dataset_name=name))
