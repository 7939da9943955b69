"""The report's rules on diagnostics, on curves made for them, and the charts they share."""

import numpy as np
import pytest

from densessl.visualization.curves import Series
from densessl.visualization.diagnostics import diagnostics_section
from densessl.visualization.health import Facts, judge


def series(name: str, values: list[float], start: int = 0) -> dict[str, Series]:
    iterations = np.array([start, *range(99, 99 + 100 * (len(values) - 1), 100)])
    return {name: Series(name, iterations, np.array(values, float))}


def verdicts(metrics: dict[str, Series]) -> list[tuple[str, str]]:
    return [(verdict.level, verdict.text) for verdict in judge(metrics, Facts())]


@pytest.mark.parametrize(
    ("values", "level", "words"),
    [
        ([47, 44, 50], "good", "47 at the start, now 50"),
        ([47, 44, 30], "bad", "fell from 47 at the start to 30"),
        ([47, 20, 1.2], "bad", "all cells have nearly the same features"),
    ],
)
def test_cell_rank(values, level, words):
    ((found, text),) = verdicts(series("diagnostics/cell_rank", values))
    assert found == level
    assert words in text


def test_a_resumed_run_without_its_start_is_not_compared():
    assert verdicts(series("diagnostics/cell_rank", [47, 30], start=49)) == []
    assert verdicts(series("diagnostics/retrieval_miou", [40, 30], start=49)) == []


@pytest.mark.parametrize(("end", "level"), [(1.2, "bad"), (3.0, "good")])
def test_rank_of_outputs(end, level):
    ((found, text),) = verdicts(series("simsiam/effective_rank", [5, 4, end]))
    assert found == level
    assert "simsiam/effective_rank" in text


def test_learning_is_judged_by_the_first_headline_number():
    linear = series("diagnostics/linear_miou", [22, 25])
    assert verdicts(linear)[0][0] == "good"
    found = verdicts(linear | series("diagnostics/retrieval_miou", [17, 16]))
    assert found == [
        (
            "watch",
            "Dense features are no better than at the start so far: diagnostics/retrieval_miou was 17.0 % at "
            "the start and is 16.0 % now.",
        )
    ]
    assert verdicts(series("diagnostics/retrieval_miou", [17])) == []


def test_every_diagnostic_is_in_the_report_with_a_sentence():
    names = ("retrieval_miou", "knn_top1", "image_rank", "cell_rank", "correspondence", "seconds", "corloc")
    names += ("linear_miou", "cluster_miou", "correspondence_chance", "stereo", "stereo_chance", "alignment")
    names += ("image_spread", "cell_spread", "uniformity")
    metrics = {}
    for name in names:
        metrics |= series(f"diagnostics/{name}", [1, 2, 3])
    html = diagnostics_section(metrics)
    assert all(f'<th scope="row">{name}</th>' in html for name in names)
    assert "Not described" not in html
