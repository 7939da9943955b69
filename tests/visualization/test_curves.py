"""Metrics files and the charts drawn from them."""

import json
import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from densessl.errors import DataError
from densessl.visualization.curves import (
    HEIGHT,
    WIDTH,
    Series,
    line_chart,
    line_charts,
    nice_ticks,
    read_metrics,
)


def _write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _svg(html: str) -> ET.Element:
    return ET.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])


def test_metrics_by_name(tmp_path):
    file = _write(
        tmp_path / "metrics.json", [{"iteration": 9, "loss": 2.0}, {"iteration": 19, "loss": 1.0, "lr": 0.1}]
    )
    metrics = read_metrics(file)
    assert list(metrics) == ["loss", "lr"]
    assert metrics["loss"].iterations.tolist() == [9, 19]
    assert metrics["loss"].values.tolist() == [2.0, 1.0]


def test_a_resumed_run_overwrites_repeated_iterations(tmp_path):
    rows = [{"iteration": i, "loss": v} for i, v in ((9, 3.0), (19, 2.0), (29, 9.0), (19, 1.5), (29, 1.0))]
    series = read_metrics(_write(tmp_path / "metrics.json", rows))["loss"]
    assert series.iterations.tolist() == [9, 19, 29]
    assert series.values.tolist() == [3.0, 1.5, 1.0]


def test_a_last_line_cut_by_a_kill_is_left_out_but_damage_is_not(tmp_path):
    file = _write(tmp_path / "metrics.json", [{"iteration": 9, "loss": 3.0}])
    file.write_text(file.read_text() + '{"iteration": 19, "lo')
    assert read_metrics(file)["loss"].values.tolist() == [3.0]
    file.write_text('{"iter\n' + file.read_text())
    with pytest.raises(DataError, match="line 1 is not JSON"):
        read_metrics(file)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2.5, 5, 7.5, 10]),
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (6.1, 9.8, [7, 8, 9]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_nice_ticks(low, high, expected):
    np.testing.assert_allclose(nice_ticks(low, high), expected)


def test_a_chart_is_valid_svg_inside_its_frame():
    iterations = np.arange(0, 5000, 5)
    series = [
        Series("a <b>", iterations, np.sin(iterations / 300)),
        Series("one point", np.array([2500]), np.array([0.5])),
    ]
    html = line_chart(series, title="T & U", references=[("chance", 2.0)])
    svg = _svg(html)
    assert svg.get("role") == "img"
    assert "T & U" in svg.get("aria-label")
    path = next(p for p in svg.iter("path") if p.get("class") == "curve").get("d")
    points = np.array([p.split() for p in path.replace("M", "L").split("L")[1:]], dtype=float)
    assert 200 < len(points) <= 300
    assert (points >= 0).all()
    assert (points <= [WIDTH, HEIGHT]).all()
    assert (np.diff(points[:, 0]) > 0).all()
    assert "a &lt;b&gt;" in html
    assert next(svg.iter("circle")).get("r")


def test_higher_values_stand_higher():
    svg = _svg(
        line_chart([Series("v", np.array([0, 1]), np.array([1.0, 3.0]))], title="t", value_range=(0, 4))
    )
    path = next(p for p in svg.iter("path") if p.get("class") == "curve").get("d")
    (x0, y0), (x1, y1) = (map(float, p.split()) for p in path[1:].split("L"))
    assert x0 < x1
    assert y0 > y1


def test_nan_is_a_gap_and_is_counted():
    series = Series("v", np.arange(4), np.array([1.0, math.nan, 2.0, 3.0]))
    html = line_chart([series], title="t")
    path = next(p for p in _svg(html).iter("path") if p.get("class") == "curve").get("d")
    assert path.count("M") == 2
    assert html.endswith("</figure>")
    assert '<td class="number">1</td></tr>' in html


def test_nothing_finite_is_said():
    assert "nothing finite" in line_chart(
        [Series("v", np.arange(2), np.array([math.nan, math.inf]))], title="t"
    )


def test_tail():
    assert Series("v", np.arange(20), np.arange(20.0)).tail() == 18.5
    assert math.isnan(Series("v", np.arange(1), np.array([math.nan])).tail())


def test_many_lines_take_several_charts_and_none_is_dropped():
    series = [Series(f"run{i}", np.arange(2), np.array([1.0, i])) for i in range(8)]
    charts = line_charts(series, title="T")
    assert [chart.count('class="curve" style') for chart in charts] == [12, 4]  # each line and its key
    assert "T (2 of 2)" in charts[1]
    with pytest.raises(ValueError, match="8 lines"):
        line_chart(series, title="T")


def test_a_line_without_values_is_named_and_the_unit_stands_at_the_axis():
    good = Series("good", np.arange(2), np.array([1.0, 2.0]))
    html = line_chart([good, Series("lost", np.arange(2), np.full(2, math.nan))], title="t", unit="GiB")
    assert "Nothing finite was logged of lost." in html
    assert "GiB" in [text.text for text in _svg(html).iter("text")]


@pytest.mark.parametrize("value", [0.0, 256.0, -3.0])
def test_a_constant_is_drawn_on_an_axis_with_zero(value):
    svg = _svg(line_chart([Series("v", np.arange(3), np.full(3, value))], title="t"))
    assert "0" in [text.text for text in svg.iter("text") if text.get("text-anchor") == "end"]
