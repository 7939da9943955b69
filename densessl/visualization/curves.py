"""Curves of a run as inline SVG, drawn from detectron2's `metrics.json`.

The SVG carries no colour of its own: lines take the variables of `page.py`, so that one drawing serves
light and dark. Each line also has its own dash pattern: colour is never the only key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from densessl.errors import DataError
from densessl.visualization import page

WIDTH, HEIGHT = 380, 240  # user units; close to CSS pixels on a phone, so that the text keeps its size
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 22, 38
MAX_POINTS = 300  # per line: more cannot be seen at this width
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "1 4")


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: for the legend.
        iterations: (P,) increasing.
        values: (P,) float64, same length; non-finite values are gaps.
    """

    name: str
    iterations: np.ndarray
    values: np.ndarray

    def scaled(self, factor: float) -> Series:
        return Series(self.name, self.iterations, self.values * factor)

    def renamed(self, name: str) -> Series:
        return Series(name, self.iterations, self.values)

    @property
    def finite(self) -> np.ndarray:
        """The finite values, in order."""
        return self.values[np.isfinite(self.values)]

    def tail(self, share: float = 0.1) -> float:
        """Mean of the last `share` of the finite values, NaN when there are none."""
        finite = self.finite
        return float(finite[-max(1, round(len(finite) * share)) :].mean()) if len(finite) else math.nan


def read_metrics(path: str | Path) -> dict[str, Series]:
    """Reads the JSON lines that d2's `JSONWriter` appends.

    A resumed run writes some iterations twice: the later line counts. A last line cut by a kill is left
    out; a broken line anywhere else is an error.

    Returns:
        name -> Series, in order of first appearance; empty when the file has no line yet.

    Raises:
        DataError: a line in the middle of the file is not JSON.
    """
    columns: dict[str, dict[int, float]] = {}
    lines = Path(path).read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise DataError(
                f"{path}, line {number} is not JSON ({error.msg}). Remove that line or rerun the training."
            ) from None
        iteration = int(record.pop("iteration", 0))
        for name, value in record.items():
            if isinstance(value, (int, float)):
                columns.setdefault(name, {})[iteration] = float(value)
    return {name: _series(name, points) for name, points in columns.items()}


def _series(name: str, points: dict[int, float]) -> Series:
    order = sorted(points)
    return Series(name, np.array(order), np.array([points[i] for i in order], dtype=np.float64))


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) that lie within [low, high]."""
    span = high - low
    raw = span / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _label(value: float) -> str:
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        digits, power = f"{value:.1e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    if abs(value) >= 1000 and value == round(value):
        return f"{value / 1000:g}k"
    return f"{value:.6g}"


def _thinned(series: Series) -> Series:
    """At most MAX_POINTS points: means over runs of equal length."""
    stride = math.ceil(len(series.values) / MAX_POINTS)
    if stride <= 1:
        return series
    whole = len(series.values) // stride * stride
    values = series.values[:whole].reshape(-1, stride).mean(axis=1)
    return Series(series.name, series.iterations[:whole].reshape(-1, stride)[:, -1], values)


def _value_range(
    series: Sequence[Series], references: Sequence[tuple[str, float]], fixed: tuple[float, float] | None
) -> tuple[float, float]:
    if fixed is not None:
        return fixed
    finite = np.concatenate([s.finite for s in series] + [np.array([v for _, v in references])])
    low, high = float(finite.min()), float(finite.max())
    if low == high:  # a constant shows its size, not the noise of its last digit
        return min(0.0, 1.2 * low), max(0.0, 1.2 * high) or (1.0 if low == 0 else 0.0)
    margin = 0.06 * (high - low)
    return (low - margin if low < 0 or low > 2 * margin else 0.0), high + margin


def line_charts(series: Sequence[Series], *, title: str, **options) -> list[str]:
    """As many charts as hold all series, at most NUM_SERIES lines each; options as in `line_chart`."""
    groups = [series[i : i + page.NUM_SERIES] for i in range(0, len(series), page.NUM_SERIES)]
    if len(groups) <= 1:
        return [line_chart(group, title=title, **options) for group in groups]
    return [
        line_chart(group, title=f"{title} ({number} of {len(groups)})", **options)
        for number, group in enumerate(groups, start=1)
    ]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    unit: str = "",
    note: str = "",
    references: Sequence[tuple[str, float]] = (),
    value_range: tuple[float, float] | None = None,
) -> str:
    """A chart of one or more series over iterations: SVG, legend, and the numbers to open below it.

    Args:
        series: up to NUM_SERIES lines; those without a finite value are named below the drawing.
        title: what is shown; heads the figure and names it for assistive technology.
        unit: of the values, over the vertical axis.
        note: a sentence below the legend.
        references: (label, value) of dashed horizontal lines, such as the chance level.
        value_range: (low, high) of the vertical axis; by default the data and references with a margin.

    Returns:
        HTML of a figure. Without any finite value, a sentence that says so.

    Raises:
        ValueError: there are more series than colours; see `line_charts`.
    """
    if len(series) > page.NUM_SERIES:
        raise ValueError(f"{len(series)} lines in a chart of at most {page.NUM_SERIES}: use line_charts")
    drawn = [s for s in series if len(s.finite)]
    if not drawn:
        return page.missing(f"{title}: nothing finite was logged.")
    low, high = _value_range(drawn, references, value_range)
    first = min(int(s.iterations[0]) for s in drawn)
    last = max(max(int(s.iterations[-1]) for s in drawn), first + 1)

    def x(iteration: float) -> float:
        return LEFT + (iteration - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - min(max(value, low), high)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(x, y, (first, last), (low, high), unit)]
    for label, value in references:
        parts.append(f'<path class="reference" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        above = y(value) - 5 if y(value) > TOP + 16 else y(value) + 14
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{above:.1f}" text-anchor="end">{escape(label)}</text>')
    for index, line in enumerate(drawn):
        parts.append(_curve(_thinned(line), x, y, index))
    summary = "; ".join(f"{s.name} from {s.finite[0]:.4g} to {s.finite[-1]:.4g}" for s in drawn)
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {summary}")}">'
        f"{''.join(parts)}</svg>"
    )
    legend = _legend(drawn) if len(drawn) > 1 or drawn[0].name != title else ""
    absent = ", ".join(s.name for s in series if not len(s.finite))
    if absent:
        note = f"{note} Nothing finite was logged of {absent}.".strip()
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    numbers = _numbers(drawn, title)
    return f"<figure><strong>{escape(title)}</strong>{svg}{legend}{caption}{numbers}</figure>"


def _axes(x, y, span: tuple[int, int], value_range: tuple[float, float], unit: str) -> str:
    floor = HEIGHT - BOTTOM
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}"/>']
    if unit:
        parts.append(f'<text x="4" y="12">{escape(unit)}</text>')
    for value in nice_ticks(*value_range):
        parts.append(f'<path class="tick" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{_label(value)}</text>')
    for value in nice_ticks(*span, count=7):
        if value != round(value):
            continue
        # The last label would be cut by the edge of the drawing if it stood centred there.
        anchor = "end" if x(value) > WIDTH - 30 else "middle"
        parts.append(
            f'<text x="{x(value):.1f}" y="{floor + 16}" text-anchor="{anchor}">{_label(value)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">iteration</text>')
    return "".join(parts)


def _curve(series: Series, x, y, index: int) -> str:
    steps, pen_down = [], False
    for iteration, value in zip(series.iterations, series.values):
        if not math.isfinite(value):
            pen_down = False
            continue
        steps.append(f"{'L' if pen_down else 'M'}{x(iteration):.1f} {y(value):.1f}")
        pen_down = True
    colour = f"var(--series-{index + 1})"
    if len(steps) == 1:
        point = steps[0][1:].split()
        return f'<circle cx="{point[0]}" cy="{point[1]}" r="3.5" style="fill:{colour}"/>'
    dash = f";stroke-dasharray:{DASHES[index]}" if DASHES[index] else ""
    return f'<path class="curve" style="stroke:{colour}{dash}" d="{"".join(steps)}"/>'


def _legend(series: Sequence[Series]) -> str:
    items = []
    for index, line in enumerate(series):
        dash = f";stroke-dasharray:{DASHES[index]}" if DASHES[index] else ""
        key = (
            '<svg viewBox="0 0 26 8" aria-hidden="true"><path class="curve" '
            f'style="stroke:var(--series-{index + 1}){dash}" d="M1 4H25"/></svg>'
        )
        items.append(f"<li>{key}{escape(line.name)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _numbers(series: Sequence[Series], title: str) -> str:
    rows = []
    for line in series:
        finite = line.finite
        values = (finite[0], finite.min(), finite.max(), finite[-1])
        gaps = len(line.values) - len(finite)
        rows.append([line.name, *(f"{v:.4g}" for v in values), str(gaps)])
    headers = ["line", "first", "lowest", "highest", "last", "non-finite"]
    return page.details(
        f"Numbers: {title}", page.table(headers, rows, caption=f"{title}, as logged", numeric=True)
    )
