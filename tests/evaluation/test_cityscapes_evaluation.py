"""Cityscapes' loader and evaluator on a small tree in Cityscapes' format."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_instances
from detectron2.structures import Instances
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from format_builders import write_cityscapes

from densessl.errors import ConfigError, DataError
from densessl.evaluation.cityscapes_evaluation import CityscapesInstanceEvaluator

CLASSES = MetadataCatalog.get("cityscapes_fine_instance_seg_val").thing_classes
LABELS = (24, 25, 26, 27, 28, 31, 32, 33)


def register(root: Path, name: str) -> None:
    images, truth = str(root / "leftImg8bit/val"), str(root / "gtFine/val")
    DatasetCatalog.register(name, lambda: load_cityscapes_instances(images, truth))
    MetadataCatalog.get(name).set(
        image_dir=images, gt_dir=truth, thing_classes=CLASSES, evaluator_type="cityscapes_instance"
    )


@pytest.fixture
def cityscapes(tmp_path):
    write_cityscapes(tmp_path, "val")
    register(tmp_path, "cityscapes_of_this_test")
    yield "cityscapes_of_this_test"
    DatasetCatalog.remove("cityscapes_of_this_test")
    MetadataCatalog.remove("cityscapes_of_this_test")


def truth_of(name: str) -> list[tuple[dict, Instances]]:
    """(record, the instances of its picture as a perfect detector would give them)."""
    pairs = []
    for path in sorted(Path(MetadataCatalog.get(name).gt_dir).glob("*/*_instanceIds.png")):
        ids = np.asarray(Image.open(path)).astype(int)
        numbers = [i for i in np.unique(ids) if i >= 1000]
        out = Instances(ids.shape)
        out.pred_masks = torch.tensor(np.stack([ids == i for i in numbers]))
        out.pred_classes = torch.tensor([LABELS.index(i // 1000) for i in numbers])
        out.scores = torch.linspace(0.9, 0.5, len(numbers))
        pairs.append(({"file_name": path.name.replace("gtFine_instanceIds", "leftImg8bit")}, out))
    return pairs


def evaluate(name: str, pairs: list) -> dict:
    evaluator = CityscapesInstanceEvaluator(name)
    evaluator.reset()
    for record, output in pairs:
        evaluator.process([record], [{"instances": output}])
    return evaluator.evaluate()


def shifted(pairs: list, pixels: int) -> list:
    for _, out in pairs:
        out.pred_masks = torch.roll(out.pred_masks, pixels, 2)
    return pairs


def test_detectron2_loads_the_tree(cityscapes):
    records = DatasetCatalog.get(cityscapes)
    assert [(r["height"], r["width"]) for r in records] == [(96, 192)] * 2
    found = {CLASSES[a["category_id"]]: a for a in records[0]["annotations"] if not a["iscrowd"]}
    assert sorted(found) == ["bicycle", "car", "person"]
    assert [CLASSES[a["category_id"]] for a in records[0]["annotations"] if a["iscrowd"]] == ["car"]
    # 40 pixels from 100: the border of the polygon passes half a pixel outside their centres
    np.testing.assert_allclose(found["bicycle"]["bbox"], (100, 40, 140, 80), atol=0.01)


def test_perfect_masks_score_100_in_plain_floats(cityscapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    results = evaluate(cityscapes, truth_of(cityscapes))
    expected = {"AP": 100.0, "AP50": 100.0}
    expected |= {f"{p}-{c}": 100.0 for p in ("AP", "AP50") for c in ("person", "car", "bicycle")}
    assert results == {"segm": pytest.approx(expected)}
    assert all(type(value) is float for value in results["segm"].values())
    assert json.loads(json.dumps(results)) == results
    assert sorted(os.listdir(tmp_path)) == before  # nothing written where the user stands


def test_a_shift_costs_the_thresholds_above_its_overlap(cityscapes):
    """40 pixels moved by 8 overlap by 32 / 48 = 0.667: right at 0.5, 0.55, 0.6 and 0.65 of ten thresholds.

    The car is an L of 40 x 40 less 10 x 20: of its 1400 pixels the shifted ones share 1400 - 8 * 40 = 1080,
    IoU 1080 / 1720 = 0.63, three thresholds.
    """
    results = evaluate(cityscapes, shifted(truth_of(cityscapes), 8))["segm"]
    assert results["AP50"] == pytest.approx(100.0)
    assert results["AP-person"] == results["AP-bicycle"] == pytest.approx(40.0)
    assert results["AP-car"] == pytest.approx(30.0)
    assert results["AP"] == pytest.approx((40 + 40 + 30) / 3)


def test_a_false_detection_costs_by_its_rank_and_one_in_a_crowd_nothing(cityscapes):
    """Two false bicycles ahead of two right ones: precision 0.5 at recall 1, 0 at recall 0; the scripts
    integrate by trapezoids."""
    pairs = []
    for record, right in truth_of(cityscapes):
        wrong = Instances(right.image_size)
        wrong.pred_masks = torch.zeros(2, *right.image_size, dtype=torch.bool)
        wrong.pred_masks[0, 5:38, 150:178] = True  # in the group of cars
        wrong.pred_masks[1, 60:90, 150:180] = True  # on the road
        wrong.pred_classes = torch.tensor([2, 7])
        wrong.scores = torch.tensor([0.99, 0.95])
        pairs.append((record, Instances.cat([right, wrong])))
    results = evaluate(cityscapes, pairs)["segm"]
    assert results["AP-car"] == results["AP-person"] == pytest.approx(100.0)
    assert results["AP-bicycle"] == pytest.approx(25.0)


def test_no_detections_score_0(cityscapes):
    pairs = [(record, out[:0]) for record, out in truth_of(cityscapes)]
    assert evaluate(cityscapes, pairs)["segm"]["AP"] == 0.0


def test_bad_input_is_refused_before_training(cityscapes, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no 'gt_dir'"):
        CityscapesInstanceEvaluator("coco_2017_val")
    pairs = truth_of(cityscapes)
    with pytest.raises(DataError, match=r"aachen_000001.*not among"):
        evaluate(cityscapes, pairs[:1])
    pairs[0][1].pred_classes[:] = 8
    with pytest.raises(ConfigError, match="predicted class 8.*num_classes"):
        evaluate(cityscapes, pairs)
    MetadataCatalog.get("cityscapes_without_truth").set(gt_dir=str(tmp_path / "no"), thing_classes=CLASSES)
    with pytest.raises(DataError, match="datasets/README.md"):
        CityscapesInstanceEvaluator("cityscapes_without_truth")
    MetadataCatalog.remove("cityscapes_without_truth")
    monkeypatch.setattr("densessl.evaluation.cityscapes_evaluation.comm.get_world_size", lambda: 16)
    with pytest.raises(ConfigError, match="one machine"):
        CityscapesInstanceEvaluator(cityscapes)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"densessl\[cityscapes\]"):
        CityscapesInstanceEvaluator(cityscapes)
