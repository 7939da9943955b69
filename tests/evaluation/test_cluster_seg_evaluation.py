"""ClusterSegEvaluator against recorded numbers of PiCIE and DenseSiam, and at its edges."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "clustering"))
from cluster_golden import RELEASED, golden, tensors

from densessl.data.datasets.coco_stuff import class_names, is_thing
from densessl.errors import ConfigError
from densessl.evaluation.cluster_seg_evaluation import ClusterSegEvaluator, score_clusters

EXACT = {"rel": 0, "abs": 1e-10}


def evaluator(classes: int, things: int = 0, **kwargs) -> ClusterSegEvaluator:
    split = [index < things for index in range(classes)] if things else None
    return ClusterSegEvaluator([f"c{index}" for index in range(classes)], is_thing=split, **kwargs)


def process(scorer: ClusterSegEvaluator, truth, predictions, first: int = 0) -> ClusterSegEvaluator:
    for index, (label, prediction) in enumerate(zip(truth, predictions), first):
        scorer.process([{"image_id": index, "sem_seg": label}], [{"sem_seg": prediction}])
    return scorer


def random_case(name: str = "eval_hungarian_s0"):
    arrays = golden(name)
    return arrays, int(arrays["hp/K"]), int(arrays["hp/num_things"]), tensors(arrays, "in/label", "in/pred")


@pytest.mark.parametrize("name", ["eval_hungarian_s0", "eval_hungarian_s1"])
def test_recorded_scores(name):
    arrays, size, things, (label, cluster) = random_case(name)
    scores = process(evaluator(size, things, ignore_label=-1), label, cluster).evaluate()["cluster_seg"]
    for ours, theirs in {"mIoU": "miou", "acc": "acc", "mAcc": "macc"}.items():
        assert scores[ours] == pytest.approx(float(arrays[f"out/all/{theirs}"]), **EXACT)
        for part in ("thing", "stuff"):
            if things == 12:  # PiCIE's code splits at 12 whatever the classes
                printed = float(arrays[f"out/picie_as_released/{part}_{theirs}"])
                assert scores[f"{part}_{ours}_as_published"] == pytest.approx(printed, **EXACT)
            right = float(arrays[f"out/gt_split_block/{part}_{theirs}"])
            assert scores[f"{part}_{ours}"] == pytest.approx(right, **EXACT)
    for part, short in {"thing": "th", "stuff": "st"}.items():
        full = float(arrays[f"out/gt_split_full/{part}_miou"])
        assert scores[f"{part}_mIoU_full"] == pytest.approx(full, **EXACT)
        for ours, theirs in {"mIoU": "mIoU", "acc": "aAcc", "mAcc": "mAcc"}.items():
            printed = float(arrays[f"out/densesiam_as_released/{theirs}_{short}"])
            assert scores[f"{part}_{ours}_as_published"] == pytest.approx(printed, **EXACT)
    # recorded by cluster
    by_cluster = {f"c{g}": arrays["out/all/iou"][k] for g, k in arrays["out/match"].tolist()}
    for name, iou in by_cluster.items():
        if math.isnan(iou):
            assert f"IoU-{name}" not in scores
        else:
            assert scores[f"IoU-{name}"] == pytest.approx(iou, **EXACT)


@pytest.mark.parametrize("date", RELEASED)
def test_released_confusion_matrices(date):
    arrays = {k.split("/")[1]: v for k, v in golden("picie_released_hist").items() if k.startswith(date)}
    scores = score_clusters(arrays["hist"], class_names(), np.array(is_thing()))
    assert scores["acc"] == pytest.approx(float(arrays["acc"]), **EXACT)
    assert scores["mIoU"] == pytest.approx(float(arrays["miou"]), **EXACT)
    for name, iou in zip(class_names(), arrays["iou"]):
        assert scores[f"IoU-{name}"] == pytest.approx(iou, **EXACT)
    for part in ("thing", "stuff"):
        for suffix, recorded in {"": "gt_split", "_as_published": "released_split"}.items():
            ours = [scores[f"{part}_{kind}{suffix}"] for kind in ("mIoU", "acc")]
            assert ours == pytest.approx(arrays[f"{recorded}_{part}_miou_acc"], **EXACT)
    if date == "2021_12_val":
        rounded = {name: round(scores[name], 2) for name in ("acc", "mIoU", "thing_acc", "stuff_acc")}
        assert rounded == {"acc": 50.10, "mIoU": 15.09, "thing_acc": 75.57, "stuff_acc": 57.68}


def test_scores_are_resized_then_matched():
    arrays = golden("eval_feat_s0")
    size = int(arrays["hp/K"])
    feature, weight, bias, label = tensors(
        arrays, "in/feat", "in/classifier_weight", "in/classifier_bias", "in/label"
    )
    logits = F.conv2d(F.normalize(feature, dim=1), weight, bias)
    scores = process(evaluator(size, ignore_label=-1), label, logits).evaluate()["cluster_seg"]
    assert scores["acc"] == pytest.approx(float(arrays["out/acc"]), **EXACT)
    assert scores["mIoU"] == pytest.approx(float(arrays["out/miou"]), **EXACT)


def test_match_is_found_whatever_the_names_of_the_clusters():
    truth = torch.randint(0, 5, (3, 8, 8), generator=torch.Generator().manual_seed(0))
    renamed = torch.tensor([3, 0, 4, 1, 2])[truth]
    scores = process(evaluator(5, things=2), truth, renamed).evaluate()["cluster_seg"]
    for name in ("mIoU", "acc", "thing_mIoU", "stuff_acc", "thing_mIoU_full", "many_to_one_mIoU"):
        assert scores[name] == pytest.approx(100.0)
    assert (scores["NMI"], scores["ARI"]) == pytest.approx((1.0, 1.0))
    # the split that the papers printed is of cluster numbers; here too nothing is off the diagonal
    assert scores["stuff_mIoU_as_published"] == pytest.approx(100.0)


def test_more_clusters_than_classes_and_the_reverse():
    truth = torch.tensor([[[0, 0, 0, 1, 1, 255]]])
    clusters = torch.tensor([[[3, 3, 2, 0, 0, 1]]])
    scores = process(evaluator(2, things=1, num_clusters=4), truth, clusters).evaluate()["cluster_seg"]
    assert scores["acc"] == pytest.approx(80.0)  # cluster 2 has no class
    assert scores["IoU-c0"] == pytest.approx(200 / 3)
    assert scores["many_to_one_acc"] == pytest.approx(100.0)
    assert not [name for name in scores if "as_published" in name]
    truth = torch.tensor([[[0, 1, 2, 2]]])
    scores = process(evaluator(4, num_clusters=2), truth, truth.clamp(max=1)).evaluate()["cluster_seg"]
    # class 3 occurs nowhere and is n/a; one class of 0, 1 or 2 has no cluster and counts as 0
    assert "IoU-c3" not in scores
    assert scores["mIoU"] == pytest.approx(100 * (1 + 0 + 2 / 3) / 3)


def test_a_part_without_pixels_is_left_out():
    truth = torch.tensor([[[2, 2, 3, 3]]])
    scores = process(evaluator(4, things=2), truth, truth).evaluate()["cluster_seg"]
    assert scores["stuff_acc"] == 100.0
    assert not {"thing_acc", "thing_mIoU", "thing_mAcc"} & set(scores)
    assert all(math.isfinite(value) for value in scores.values())
    json.dumps(scores)


def test_nothing_to_evaluate_is_no_number():
    scorer = evaluator(3, things=1)
    assert scorer.evaluate() == {}
    process(scorer, torch.full((1, 2, 2), 255), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert scorer.evaluate() == {}
    process(scorer, torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert scorer.evaluate()["cluster_seg"]["acc"] == 100.0
    scorer.reset()
    assert scorer.evaluate() == {}


def test_classifiers_are_scored_apart():
    truth = torch.tensor([[0, 0, 1, 1]])
    heads = {"view1": truth, "view2": torch.zeros_like(truth)}
    scorer = evaluator(2)
    scorer.process([{"image_id": 0, "sem_seg": truth}], [{"sem_seg": heads}])
    scores = scorer.evaluate()["cluster_seg"]
    assert (scores["acc_view1"], scores["acc_view2"]) == (100.0, 50.0)
    assert "acc" not in scores


def test_split_of_another_length():
    with pytest.raises(ConfigError, match="2 values of is_thing for 3 classes"):
        ClusterSegEvaluator(["a", "b", "c"], is_thing=[True, False])
