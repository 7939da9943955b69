"""Keypoint AP against pycocotools (through detectron2's evaluator), on data in COCO's keypoint format."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.evaluation import COCOEvaluator as OracleEvaluator
from detectron2.structures import Boxes, Instances

sys.path.insert(0, str(Path(__file__).parent))
from format_builders import write_keypoints

from densessl.data.keypoints import keypoint_flip_indices
from densessl.errors import ConfigError
from densessl.evaluation.coco_evaluation import COCOEvaluator

SIZE = (480, 360)  # width, height: persons of medium and large area


@pytest.fixture
def persons(tmp_path):
    """Registers a small keypoint data set; yields its name."""
    path = write_keypoints(tmp_path, images=12, size=SIZE)
    register_coco_instances("keypoints_here", _get_builtin_metadata("coco_person"), str(path), str(tmp_path))
    yield "keypoints_here"
    DatasetCatalog.remove("keypoints_here")
    MetadataCatalog.remove("keypoints_here")


def detections(record: dict, rng: np.random.Generator | None, offset: float = 0.0) -> Instances:
    """The truth of an image moved by `offset` pixels or, with a generator, noisy and incomplete."""
    truth = [a for a in record["annotations"] if not a["iscrowd"]]
    points = np.array([a["keypoints"] for a in truth], dtype=float).reshape(-1, 17, 3)
    boxes = np.array([a["bbox"] for a in truth], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    points[..., :2] += offset
    if rng is not None:
        points[..., :2] += rng.normal(0, 1, points.shape[:2] + (2,)) * rng.uniform(0, 25, (len(truth), 1, 1))
        invented = rng.uniform(0, 360, (int(rng.integers(0, 3)), 17, 3))
        kept = rng.random(len(truth)) < 0.9
        points = np.concatenate([points[kept], invented])
        boxes = np.concatenate([boxes[kept], np.tile([5.0, 5.0, 100.0, 90.0], (len(invented), 1))])
    out = Instances((SIZE[1], SIZE[0]))
    out.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    out.pred_keypoints = torch.tensor(points, dtype=torch.float32)
    out.scores = torch.ones(len(points)) if rng is None else torch.tensor(rng.random(len(points))).float()
    out.pred_classes = torch.zeros(len(points), dtype=torch.int64)
    return out


def run(evaluator, records: list[dict], outputs: list[Instances]) -> dict:
    evaluator.reset()
    for record, output in zip(records, outputs):
        # evaluators shift keypoints in place
        copied = Instances(output.image_size, **{k: v for k, v in output.get_fields().items()})
        copied.pred_keypoints = output.pred_keypoints.clone()
        evaluator.process([record], [{"instances": copied}])
    return evaluator.evaluate()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("sigmas", [None, tuple(np.linspace(0.03, 0.12, 17).tolist())])
def test_equals_pycocotools_to_every_digit(persons, seed, sigmas):
    rng = np.random.default_rng(seed)
    records = DatasetCatalog.get(persons)
    outputs = [detections(record, rng) for record in records]
    own = run(COCOEvaluator(persons, keypoint_sigmas=sigmas), records, outputs)
    oracle = OracleEvaluator(persons, use_fast_impl=False, kpt_oks_sigmas=sigmas or ())
    expected = run(oracle, records, outputs)
    assert set(own) == set(expected) == {"bbox", "keypoints"}
    assert list(own["keypoints"]) == ["AP", "AP50", "AP75", "APm", "APl"]
    assert 5 < own["keypoints"]["AP"] < 95  # the comparison says something
    for task in own:
        for name, value in expected[task].items():
            if math.isnan(value):
                assert name not in own[task]
            else:
                assert own[task][name] == pytest.approx(value, abs=1e-9)


def test_perfect_keypoints_score_100_and_shifted_ones_less(persons):
    records = DatasetCatalog.get(persons)
    results = run(COCOEvaluator(persons), records, [detections(r, None) for r in records])
    assert results["keypoints"]["AP"] == pytest.approx(100.0)
    assert all(type(value) is float for value in results["keypoints"].values())
    assert json.loads(json.dumps(results)) == results
    shifted = run(COCOEvaluator(persons), records, [detections(r, None, offset=12.0) for r in records])
    assert 0 < shifted["keypoints"]["AP"] < 90
    assert run(COCOEvaluator(persons), records, [detections(r, None)[:0] for r in records]) == {"bbox": {}}


def test_object_keypoint_similarity_on_paper(persons):
    """One person of area 8 s^2, all keypoints moved by d: OKS = mean_i exp(-d^2 / (2 area (2 sigma_i)^2))."""
    sigma, area = 0.05, 20000.0
    evaluator = COCOEvaluator(persons, tasks=("keypoints",), keypoint_sigmas=[sigma] * 17)
    annotations = [a for a in evaluator._coco_api.dataset["annotations"] if a["num_keypoints"]]
    for annotation in annotations:
        annotation["area"] = area
    records = DatasetCatalog.get(persons)
    # moved so that OKS is 0.72: right at 0.5, 0.55, 0.6, 0.65, 0.7 of the ten thresholds
    distance = math.sqrt(-2 * area * (2 * sigma) ** 2 * math.log(0.72))
    outputs = [detections(r, None, offset=distance / math.sqrt(2)) for r in records]
    results = run(evaluator, records, outputs)["keypoints"]
    assert results["AP50"] == pytest.approx(100.0)
    assert results["AP"] == pytest.approx(50.0)


def test_data_without_keypoints_is_refused(persons, tmp_path):
    for change, found in ((lambda a: a.pop("keypoints"), 0), (lambda a: a["keypoints"].pop(), 16)):
        document = json.loads(Path(MetadataCatalog.get(persons).json_file).read_text())
        change(document["annotations"][4])
        path = tmp_path / f"damaged_{found}.json"
        path.write_text(json.dumps(document))
        name = f"keypoints_damaged_{found}"
        register_coco_instances(name, _get_builtin_metadata("coco_person"), str(path), str(tmp_path))
        try:
            with pytest.raises(ConfigError, match=rf"17 keypoints.*number 5 has {found}"):
                COCOEvaluator(name, tasks=("bbox", "keypoints"))
            COCOEvaluator(name, tasks=("bbox",))
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    with pytest.raises(ConfigError, match="5 keypoints in each annotation.*has 17"):
        COCOEvaluator(persons, tasks=("keypoints",), keypoint_sigmas=[0.1] * 5)
    records = DatasetCatalog.get(persons)
    for tasks, output in (
        (("keypoints",), detections(records[0], None)),
        (None, detections(records[0], None)),
    ):
        output.pred_keypoints = output.pred_keypoints[:, :4]
        with pytest.raises(
            ConfigError, match="predicted 4 keypoints, but keypoints_here has 17.*num_keypoints"
        ):
            run(COCOEvaluator(persons, tasks=tasks), records[:1], [output])


def test_flip_exchanges_left_and_right(persons):
    indices = keypoint_flip_indices(persons)
    names = MetadataCatalog.get(persons).keypoint_names
    for name, other in zip(names, (names[i] for i in indices)):
        swap = {"left": "right", "right": "left"}.get(name.split("_")[0])
        assert other == (name if swap is None else f"{swap}_{name.split('_')[1]}")
    assert keypoint_flip_indices([persons, "keypoints_coco_2017_train"]) == indices


def test_flip_of_data_without_keypoint_names_is_refused(persons):
    with pytest.raises(ConfigError, match="'voc_2007_test' has no 'keypoint_names'"):
        keypoint_flip_indices(["keypoints_coco_2017_train", "voc_2007_test"])
    MetadataCatalog.get("keypoints_other").set(keypoint_names=["nose"], keypoint_flip_map=[])
    try:
        with pytest.raises(ConfigError, match="different metadata"):
            keypoint_flip_indices([persons, "keypoints_other"])
    finally:
        MetadataCatalog.remove("keypoints_other")
