"""Pascal VOC evaluation on two drawn-up images."""

import json
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import register_pascal_voc
from detectron2.structures import Boxes, Instances

sys.path.insert(0, str(Path(__file__).parent))
from format_builders import write_voc

from densessl.evaluation.voc_evaluation import PascalVOCDetectionEvaluator

CLASSES = ("cow", "dog")
TRUTH = {
    "000001": [("cow", (11, 21, 60, 90)), ("dog", (100, 50, 180, 120))],
    "000002": [("dog", (5, 5, 50, 60))],
}


@pytest.fixture
def voc(tmp_path):
    """Registers the two images in VOC's layout; yields the name."""
    write_voc(tmp_path, TRUTH, "test")
    register_pascal_voc("voc_of_this_test", str(tmp_path), "test", 2007, CLASSES)
    yield "voc_of_this_test"
    DatasetCatalog.remove("voc_of_this_test")
    MetadataCatalog.remove("voc_of_this_test")


def shifted_truth(record, shift, kept):
    """The truth of an image moved by `shift` pixels to the right, for the classes in `kept`."""
    found = [a for a in record["annotations"] if CLASSES[a["category_id"]] in kept]
    out = Instances((150, 200))
    boxes = torch.tensor([a["bbox"] for a in found], dtype=torch.float32).reshape(-1, 4)
    out.pred_boxes = Boxes(boxes + torch.tensor([shift, 0.0, shift, 0.0]))
    out.scores = torch.ones(len(found))
    out.pred_classes = torch.tensor([a["category_id"] for a in found], dtype=torch.int64)
    return out


def evaluate(name, shift, kept=CLASSES):
    """Scores `shifted_truth` of all images."""
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [{"instances": shifted_truth(record, shift, kept)}])
    return evaluator.evaluate()


def test_perfect_boxes_score_100_in_plain_floats(voc):
    results = evaluate(voc, 0.0)
    assert results["bbox"] == pytest.approx({"AP": 100.0, "AP50": 100.0, "AP75": 100.0})
    assert all(type(value) is float for value in results["bbox"].values())
    assert json.loads(json.dumps(results)) == results


def test_a_shift_costs_the_strict_thresholds_and_a_lost_class_half(voc):
    shifted = evaluate(voc, 10.0)["bbox"]
    # IoU of the cow: 40 / 60 pixels of width; of the dogs 71 / 91 and 36 / 56
    assert shifted["AP50"] == pytest.approx(100.0)
    assert shifted["AP75"] < 40.0
    assert 0 < shifted["AP"] < 60
    assert evaluate(voc, 0.0, kept=("dog",))["bbox"]["AP50"] == pytest.approx(50.0)


def test_no_predictions_score_0(voc):
    assert evaluate(voc, 0.0, kept=())["bbox"] == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
