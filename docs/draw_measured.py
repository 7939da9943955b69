"""Draws the figure of the README from the tables of docs/benchmarks.md.

python docs/draw_measured.py docs/measured.svg
"""

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

SOURCE = Path(__file__).resolve().parent / "benchmarks.md"
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#8c8c8c"  # apart for every kind of colour vision


def rows(text: str, first_cell: str) -> list[list[str]]:
    """Cells of the table whose header begins with `first_cell`, header and rule left out.

    Raises:
        ValueError: there is no such table.
    """
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first_cell}"):
            next(lines)
            break
    else:
        raise ValueError(f"{SOURCE} has no table that begins with {first_cell!r}")
    found = []
    for line in lines:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def draw_views(axes: Axes, text: str) -> None:
    """Images per second and core of the two-view pipeline; a range is drawn at its middle."""
    table = [row for row in rows(text, "pipeline") if row[2]]
    for place, (_, _, speed) in enumerate(table):
        low, high = (float(v) for v in (re.findall(r"\d+", speed) * 2)[:2])
        axes.barh(place, (low + high) / 2, 0.6, color=GREY if place == 0 else BLUE)
        axes.text((low + high) / 2 + 8, place, speed, va="center", fontsize=8)
    axes.set(title="Two views of 224 px", xlabel="images/s on one core", xlim=(0, 590))
    label_rows(axes, [row[0].replace(" (the originals)", "").replace(", ", ",\n") for row in table])


def draw_steps(axes: Axes, text: str) -> None:
    """Seconds of a training step, ours and lightly's."""
    table = rows(text, "ResNet-50, 224 px")
    for shift, column, name, color in ((-0.18, 1, "densessl", BLUE), (0.18, 2, "lightly 1.6.0", GREY)):
        values = [float(row[column]) for row in table]
        bars = axes.barh(
            [place + shift for place in range(len(table))], values, 0.34, color=color, label=name
        )
        axes.bar_label(bars, [row[column] for row in table], padding=2, fontsize=7)
    axes.set(title="Training step, ResNet-50", xlabel="processor seconds, less is better", xlim=(0, 6.6))
    label_rows(axes, [row[0].replace(", ", ",\n", 1) for row in table])
    axes.legend(loc="lower right", frameon=False, fontsize=8)


def draw_quickstart(axes: Axes, text: str) -> None:
    """Box AP of each seed by start, and the mean."""
    table = rows(text, "start |")
    for place, (start, color) in enumerate((("DenseCL", BLUE), ("random", ORANGE))):
        values = [float(row[2]) for row in table if row[0] == start]
        (mean,) = (row[2] for row in table if row[0] == f"**{start}**")
        axes.plot([place] * len(values), values, "o", color=color)
        axes.plot([place - 0.2, place + 0.2], [float(mean.split()[0])] * 2, color=color)
        axes.text(place + 0.25, float(mean.split()[0]), mean, va="center", fontsize=8)
    title = "Quickstart: no reliable difference"
    axes.set(title=title, ylabel="box AP, seeds and mean", xlim=(-0.5, 1.9), ylim=(0, 12))
    axes.set_xticks([0, 1], ["DenseCL", "random"])


def label_rows(axes: Axes, names: list[str]) -> None:
    """Names beside horizontal bars, the first on top."""
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()


def main(output: str) -> None:
    """Draws the figure from the tables of docs/benchmarks.md into the SVG file `output`."""
    # text stays text, and equal input gives an equal file
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "densessl", "font.family": "sans-serif"})
    text = SOURCE.read_text()
    figure, panels = plt.subplots(1, 3, figsize=(11, 2.9), layout="constrained")
    for draw, axes in zip((draw_views, draw_steps, draw_quickstart), panels):
        draw(axes, text)
        axes.title.set_fontsize(10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
