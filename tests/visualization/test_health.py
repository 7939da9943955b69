"""Each rule on curves made to break it and on curves that should pass."""

import math

import numpy as np
import pytest

from densessl.visualization.curves import Series
from densessl.visualization.health import Facts, judge

FACTS = Facts(queue_size=1000, batch=10, momentum=0.99, images=5000, iterations=200)
NO_FACTS = Facts()


def _metrics(**values) -> dict[str, Series]:
    """Keyword `a__b` becomes metric `a/b`; a number is a constant curve, a list the curve itself."""
    found = {}
    for name, value in values.items():
        curve = np.array(value if isinstance(value, list) else [value] * 20, dtype=float)
        name = name.replace("__", "/")
        found[name] = Series(name, np.arange(len(curve)), curve)
    return found


def _verdict(text: str, metrics, facts=NO_FACTS):
    (found,) = [v for v in judge(metrics, facts) if text in v.text]
    return found.level


@pytest.mark.parametrize(("end", "level"), [(math.log(1001), "watch"), (5.0, "good")])
def test_loss_against_chance(end, level):
    curve = np.linspace(4.0, end, 30).tolist()
    metrics = _metrics(densecl__loss_global_unweighted=curve)
    assert _verdict("chance level", metrics, Facts(queue_size=1000)) == level


def test_the_rise_at_the_start_is_explained():
    metrics = _metrics(moco__loss_global_unweighted=[4.0, 6.5, *([5.0] * 20)])
    assert "rose first" in judge(metrics, Facts(queue_size=1000))[0].text


@pytest.mark.parametrize(("negative", "level"), [(0.895, "bad"), (0.2, "good")])
def test_collapse_by_similarity(negative, level):
    metrics = _metrics(densecl__positive_cosine=0.9, densecl__negative_cosine=negative)
    assert _verdict("ollapse", metrics) == level


def test_a_collapsed_dense_branch_is_not_hidden_by_the_global_one():
    metrics = _metrics(
        densecl__positive_cosine=0.9,
        densecl__negative_cosine=0.1,
        densecl__dense_positive_cosine=0.99,
        densecl__dense_negative_cosine=0.98,
    )
    assert _verdict("ollapse", metrics) == "bad"


@pytest.mark.parametrize(("std", "level"), [(0.02, "bad"), (0.9, "good")])
def test_collapse_by_spread(std, level):
    assert _verdict("feature_std", _metrics(simsiam__feature_std=std)) == level


@pytest.mark.parametrize(("share", "level"), [(0.05, "watch"), (0.6, "good")])
def test_matches(share, level):
    assert _verdict("Dense matches", _metrics(densecl__match_distinct=share)) == level


@pytest.mark.parametrize(("filled", "level"), [(400, "watch"), (1000, "good")])
def test_queue_fill(filled, level):
    assert _verdict("real keys", _metrics(moco__queue_filled=filled), Facts(queue_size=1000)) == level


@pytest.mark.parametrize(("batch", "level"), [(4, "watch"), (100, "good")])
def test_queue_age(batch, level):
    facts = Facts(queue_size=1000, batch=batch, momentum=0.99)
    assert _verdict("momentum encoder", {}, facts) == level


def test_queue_longer_than_the_data():
    assert _verdict("longer than the data", {}, Facts(queue_size=1000, images=200)) == "watch"
    assert judge({}, Facts(queue_size=1000, images=2000)) == []


def test_nan_is_a_problem_and_comes_first():
    metrics = _metrics(loss_global=[1.0, math.nan], densecl__match_distinct=0.5)
    found = judge(metrics, FACTS)
    assert found[0].level == "bad"
    assert "loss_global" in found[0].text


def test_no_metrics_no_verdict():
    assert judge({}, Facts()) == []


@pytest.mark.parametrize(("share", "level"), [(0.4, "bad"), (0.8, "watch"), (1.0, "good")])
def test_dead_clusters(share, level):
    assert _verdict("lusters", _metrics(picie__used_clusters=share)) == level


@pytest.mark.parametrize(
    ("curve", "done", "level", "text"),
    [
        ([0.0, 0.1, 0.05, 0.001], 100, "good", "followed its schedule"),
        ([0.1, 0.1, 0.1, 0.1], 100, "watch", "did not come down"),
        ([0.1, 0.1, 0.1, 0.1], 50, "info", "50 of 100 iterations"),
        ([0.0, 0.0, 0.0], 100, "bad", "was 0 throughout"),
    ],
)
def test_learning_rate(curve, done, level, text):
    assert _verdict(text, _metrics(lr=curve), Facts(iterations=done, planned=100)) == level


@pytest.mark.parametrize(("end", "level"), [(1.1, "good"), (50.0, "watch")])
def test_growing_gradient(end, level):
    assert _verdict("gradient", _metrics(grad_norm=[1.0] * 18 + [end] * 2)) == level
