"""What the scores of a backbone say in words, on scores with a known answer."""

import math

import numpy as np
import pytest
from scipy import stats

from densessl.visualization.correspondences import MatchAccuracy
from densessl.visualization.matching import difference, in_words, share, total


def _scores(*rights: int) -> list[MatchAccuracy]:
    return [MatchAccuracy(cells=100, nearest_correct=right, chance=5.0) for right in rights]


def test_the_interval_is_that_of_a_paired_t_test():
    trained, starts = _scores(60, 50, 70, 40), [_scores(50, 45, 52, 41), _scores(40, 45, 58, 39)]
    mean, half = difference(trained, starts)
    reference = stats.ttest_rel(
        [0.6, 0.5, 0.7, 0.4], np.mean([[0.5, 0.45, 0.52, 0.41], [0.4, 0.45, 0.58, 0.39]], 0)
    )
    low, high = reference.confidence_interval(0.95)
    assert mean - half == pytest.approx(low, abs=1e-12)
    assert mean + half == pytest.approx(high, abs=1e-12)


@pytest.mark.parametrize(
    ("trained", "words"),
    [
        ((60, 61, 62), "again better than the untrained network"),
        ((20, 21, 22), "again worse than the untrained network"),
        ((20, 60, 41), "does not show that pretraining helped or harmed"),
    ],
)
def test_better_worse_or_not_to_be_told(trained, words):
    text = in_words("DenseCL", _scores(*trained), [_scores(40, 40, 40), _scores(42, 39, 41)])
    assert words in text
    assert f"right for {sum(trained) / 300:.1%} of the locations" in text
    assert "untrained 40.0% to 40.7%, by chance 5.0%" in text


def test_one_photograph_and_none_with_a_partner():
    assert "give more" in in_words("a", _scores(50), [_scores(40)])
    assert difference([MatchAccuracy(), *_scores(5)], [[MatchAccuracy(), *_scores(5)]]) is None
    assert math.isnan(share(total([])))
