"""Linear SVM benchmark: recorded AP, separable and random features, low-shot samples, restart, the tool."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from densessl.data.datasets.voc_classification import VOCLabels
from densessl.errors import ConfigError, DataError
from densessl.evaluation import svm_benchmark
from densessl.evaluation.linear_svm import (
    COST_GRIDS,
    average_precision,
    fit,
    make_svm,
    normalise_features,
    score_class,
    training_rows,
    usable_classes,
)
from densessl.evaluation.low_shot_svm import low_shot_ap, low_shot_labels, sample_ap
from densessl.evaluation.svm_benchmark import SVMOptions, run_benchmark

ROOT = Path(__file__).parents[2]
GOLDEN = np.load(ROOT / "tests/data/golden/densecl/voc07_svm_ap_s0.npz")
COSTS = (0.1, 1.0, 10.0)


def test_golden_ap_features_and_costs():
    targets, scores = GOLDEN["in/targets"], GOLDEN["in/scores"]
    found = [average_precision(targets[:, k], scores[:, k]) for k in range(targets.shape[1])]
    np.testing.assert_allclose(found, GOLDEN["out/ap_per_class"], rtol=0, atol=1e-12)
    assert np.mean(found) == pytest.approx(float(GOLDEN["out/map"]), abs=1e-12)
    normalised = normalise_features(GOLDEN["in/features"])
    np.testing.assert_allclose(normalised, GOLDEN["out/features_normalised"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(COST_GRIDS["openselfsup"], GOLDEN["out/costs_full"], rtol=1e-15)
    assert (targets == -1).any()  # else it would not show that ignored images are left out


def slow_ap(labels, scores):
    """Area under max-precision at every recall, by definition."""
    kept = [(s, n) for s, n in zip(scores, labels) if n != -1]
    kept.sort(key=lambda pair: -pair[0])
    positives = sum(n == 1 for _, n in kept)
    hits, points = 0, []
    for rank, (_, n) in enumerate(kept, 1):
        hits += n == 1
        points.append((hits / positives, hits / rank))
    area, previous = 0.0, 0.0
    for recall, _ in points:
        area += (recall - previous) * max(p for r, p in points if r >= recall)
        previous = recall
    return area


def test_ap_edges_and_slow_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels, scores = rng.integers(-1, 2, 30), rng.normal(size=30)
        assert average_precision(labels, scores) == pytest.approx(slow_ap(labels, scores), abs=1e-12)
    assert average_precision(np.array([1, 0, 0]), np.array([3.0, 2, 1])) == 1.0
    assert average_precision(np.array([0, 0, 1]), np.array([3.0, 2, 1])) == pytest.approx(1 / 3)
    assert average_precision(np.array([1, 1]), np.array([0.0, 0.0])) == 1.0
    assert np.isnan(average_precision(np.array([0, -1]), np.array([1.0, 2.0])))
    # the interpolated precision is never below scikit-learn's
    labels, scores = rng.integers(0, 2, 50), rng.normal(size=50)
    assert average_precision(labels, scores) >= average_precision_score(labels, scores)


def test_svm_is_the_published_one():
    model = make_svm(0.5)
    expected = {
        "C": 0.5,
        "class_weight": {1: 2, -1: 1},
        "intercept_scaling": 1.0,
        "penalty": "l2",
        "loss": "squared_hinge",
        "tol": 1e-4,
        "dual": True,
        "max_iter": 2000,
    }
    assert {name: model.get_params()[name] for name in expected} == expected
    # its solution minimises |w|^2 / 2 + C sum weight max(0, 1 - t f)^2, the intercept regularised as well
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    targets = np.where(x[:, 0] + 0.5 * rng.normal(size=40) > 0, 1, -1)
    fitted, converged = fit(x, targets, 0.5)
    assert converged
    w = np.append(fitted.coef_[0], fitted.intercept_[0])
    padded = np.column_stack([x, np.ones(40)])
    slack = np.maximum(0, 1 - targets * (padded @ w))
    gradient = w - 2 * 0.5 * ((np.where(targets == 1, 2, 1) * slack * targets) @ padded)
    assert np.abs(gradient).max() < 1e-2


def make_labels(features_of, seed, count, classes=3, dimensions=12):
    """Multi-label data: a label bit per class; features are what `features_of(labels, rng)` says."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, classes)).astype(np.int8)
    return labels, normalise_features(features_of(labels, rng, dimensions))


def separable(labels, rng, dimensions):
    directions = np.eye(dimensions)[: labels.shape[1]]
    return (2.0 * labels - 1) @ directions + 0.02 * rng.normal(size=(len(labels), dimensions))


def unrelated(labels, rng, dimensions):
    return rng.normal(size=(len(labels), dimensions))


def test_separable_features_reach_100_and_unrelated_ones_chance():
    train_labels, train = make_labels(separable, 0, 60)
    test_labels, test = make_labels(separable, 1, 60)
    for k in range(3):
        result = score_class(train, train_labels[:, k], test, test_labels[:, k], COSTS)
        assert result.ap == 1.0
        assert result.cost == COSTS[int(np.argmax(result.validation))]
    train_labels, train = make_labels(unrelated, 0, 300)
    test_labels, test = make_labels(unrelated, 1, 300)
    found = [
        score_class(train, train_labels[:, k], test, test_labels[:, k], COSTS).ap - test_labels[:, k].mean()
        for k in range(3)
    ]
    assert np.abs(found).max() < 0.1


def test_ignored_images_train_only_by_option():
    labels = np.array([1, -1, 0])
    rows, targets = training_rows(labels)
    assert (rows.tolist(), targets.tolist()) == ([0, 2], [1, -1])
    rows, targets = training_rows(labels, "negative")
    assert (rows.tolist(), targets.tolist()) == ([0, 1, 2], [1, -1, -1])


def test_classes_without_enough_images():
    train = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert usable_classes(train, train) == [0]
    with pytest.raises(DataError, match="no class has 3 images"):
        usable_classes(train[:, 1:], train[:, 1:])
    with pytest.raises(DataError, match="3 classes to train and 2 to test"):
        usable_classes(train, train[:, 1:])


def test_low_shot_samples():
    labels = np.random.default_rng(0).integers(-1, 2, (200, 4)).astype(np.int8)
    chosen = low_shot_labels(labels, 8, sample=2)
    assert (chosen == 1).sum(0).tolist() == [8] * 4
    assert (chosen == 0).sum(0).tolist() == [24] * 4  # 3 times as many
    kept = chosen != -1
    np.testing.assert_array_equal(chosen[kept], labels[kept])
    np.testing.assert_array_equal(chosen, low_shot_labels(labels, 8, sample=2))
    assert (chosen != low_shot_labels(labels, 8, sample=3)).any()
    assert (chosen != low_shot_labels(labels, 8, sample=2, seed=1)).any()
    with pytest.raises(DataError, match="k = 96 takes 96 images that show class cow"):
        low_shot_labels(labels, 96, 0, names=["cow"] * 4)


def test_low_shot_ap_and_its_two_choices():
    train_labels, train = make_labels(separable, 0, 80)
    test_labels, test = make_labels(separable, 1, 60)
    for k in (1, 2, 8):
        result = low_shot_ap(train, train_labels, test, test_labels, COSTS, k, samples=2)
        assert result["mean"] > 0.95
        assert result["cost"] is None
    labels, x = make_labels(unrelated, 0, 200)
    y_labels, y = make_labels(unrelated, 1, 200)
    both = {
        choose: low_shot_ap(x, labels, y, y_labels, COSTS, 4, choose=choose, samples=3)
        for choose in ("cross_validation", "test")
    }
    assert abs(both["cross_validation"]["mean"] - y_labels.mean()) < 0.1
    # by definition: one cost for all samples and classes, the best on the test images
    table = np.mean(
        [
            [
                sample_ap(x, low_shot_labels(labels, 4, s)[:, c], y, y_labels[:, c], COSTS, 4, "test")
                for c in range(3)
            ]
            for s in range(3)
        ],
        axis=1,
    )  # (samples, costs)
    best = int(table.mean(0).argmax())
    assert both["test"]["cost"] == COSTS[best]
    assert both["test"]["samples"] == pytest.approx(table[:, best].tolist())
    assert both["test"]["std"] == pytest.approx(table[:, best].std())


class StoredFeatures:
    """In place of StageFeatures: features that are already there."""

    stages = ("res5",)

    def __init__(self, **features):
        self.features = features

    def extract(self, split, records):
        assert len(records) == len(self.features[split])

    def load(self, split, stage, count):
        return self.features[split][:count]


def test_benchmark_restarts_and_refuses_other_options(tmp_path, monkeypatch):
    labels, arrays = {}, {}
    for seed, split in enumerate(("train", "test")):
        matrix, arrays[split] = make_labels(separable, seed, 60)
        labels[split] = VOCLabels([f"{i:06d}.jpg" for i in range(60)], matrix, ["cat", "cow", "dog"])
    features = StoredFeatures(**arrays)
    monkeypatch.setitem(svm_benchmark.COST_GRIDS, "openselfsup", COSTS)
    options = SVMOptions(shots=(1, 4), samples=2)
    first = run_benchmark(features, labels["train"], labels["test"], tmp_path, options)
    assert first["results"]["res5"]["mAP"] == 100.0
    assert json.loads((tmp_path / "results.json").read_text())["results"]["res5"]["mAP"] == 100.0
    text = (tmp_path / "results.md").read_text()
    assert "| features | mAP | k=1 | k=4 |" in text
    assert "| res5 | 100.00 |" in text
    # what is there is not computed again, what is missing is
    (tmp_path / "svm/res5/class_cow.json").unlink()
    calls = []
    real = svm_benchmark.score_class
    monkeypatch.setattr(svm_benchmark, "score_class", lambda *args: calls.append(1) or real(*args))
    again = run_benchmark(features, labels["train"], labels["test"], tmp_path, options)
    assert len(calls) == 1
    assert again["results"]["res5"]["classes"] == first["results"]["res5"]["classes"]
    with pytest.raises(ConfigError, match="holds results for seed = 0, and this run has 1"):
        run_benchmark(
            features, labels["train"], labels["test"], tmp_path, SVMOptions(shots=(1,), samples=2, seed=1)
        )
    with pytest.raises(DataError, match="k = 64 takes 64 images that show class cat"):
        run_benchmark(features, labels["train"], labels["test"], tmp_path, SVMOptions(shots=(64,)))
    other = VOCLabels(labels["test"].file_names, labels["test"].labels, ["cat", "cow", "fox"])
    with pytest.raises(DataError, match="class files of one split only: dog, fox"):
        run_benchmark(features, labels["train"], other, tmp_path, options)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """A VOC tree of drawn textures: three classes, a few difficult images."""
    sys.path.insert(0, str(ROOT / "tests/datasets"))
    from builders import load_script

    draw = load_script("prepare_textures").draw
    root = tmp_path_factory.mktemp("VOC2007")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    names = ("blue_bars", "green_spots", "red_bands")
    rng = np.random.default_rng(0)
    for split, count in (("trainval", 36), ("test", 24)):
        kinds = [names[i % 3] for i in range(count)]
        ids = [f"{split}{i:03d}" for i in range(count)]
        for image, kind in zip(ids, kinds):
            Image.fromarray(draw(kind, 72, rng)).save(root / f"JPEGImages/{image}.jpg", quality=95)
        for name in names:
            values = [1 if kind == name else (0 if i % 9 == 1 else -1) for i, kind in enumerate(kinds)]
            lines = [f"{image} {value:2d}" for image, value in zip(ids, values)]
            (root / f"ImageSets/Main/{name}_{split}.txt").write_text("\n".join(lines) + "\n")
    return root


def test_tool_from_images_to_table(voc, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("benchmark_svm", ROOT / "tools/benchmark_svm.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    options = "random --depth 18 --size 64 --short-edge 72 --pooling adaptive --costs vissl --device cpu"
    options += f" --voc {voc} --output {tmp_path}/out --shots 1 2 --samples 2 --num-workers 0"
    tool.main([*options.split(), "--stages", "res4"])
    tool.main([*options.split(), "--stages", "res2", "res4"])
    results = json.loads((tmp_path / "out/results.json").read_text())["results"]
    assert list(results) == ["res2", "res4"]
    # colours and stripes: an untrained trunk tells them apart
    assert results["res2"]["mAP"] > 95
    assert np.load(tmp_path / "out/features/res2/train/0000000.npy").shape == (36, 64 * 36)
    assert "| res2 |" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="holds results for weights = 'random, seed 0'"):
        tool.main([*options.split(), "--seed", "1"])
    with pytest.raises(ConfigError, match="the published windows are for 224"):
        tool.main([*options.split(), "--pooling", "specified"])
    np.save(tmp_path / "out/features/res2/train/0000000.npy", np.zeros(3, object))
    with pytest.raises(DataError, match="0000000.npy is damaged.*allow_pickle=False"):
        tool.main([*options.split(), "--stages", "res2"])


@pytest.mark.parametrize("name", ["costs", "difficult", "low_shot_cost"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name}='typo'; use "):
        SVMOptions(**{name: "typo"})
