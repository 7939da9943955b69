"""Pictures of a comparison: every seed, mean and interval of the mean difference, drawn with matplotlib."""

from pathlib import Path

from densessl.benchmark.statistics import summarize
from densessl.benchmark.tables import Result, metric_title

# Wong, "Points of view: Color blindness", Nature Methods 8 (2011): told apart with any colour vision
_SEED, _MEAN, _ZERO = "#0072B2", "#D55E00", "#555555"


def write_plots(result: Result, output: Path) -> list[Path]:
    """Writes one PNG per task that has any value; returns their paths.

    Left of each pair of panels: a dot per seed and a bar at the mean. Right, with a baseline: the mean paired
    difference to it with its 95 % interval.
    """
    return [
        path
        for task in result.titles
        if any(result.values(task, row, m) for row in result.rows(task) for m in result.metrics(task))
        for path in [_write_plot(result, task, output / f"{task}.png")]
    ]


def _write_plot(result: Result, task: str, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    rows, metrics = result.rows(task), result.metrics(task)
    columns = 2 if result.baseline else 1
    figure = Figure(figsize=(4.5 * columns, 0.6 + (0.6 + 0.35 * len(rows)) * len(metrics)), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(metrics), columns, squeeze=False)
    for metric, line in zip(metrics, axes):
        _draw_values(line[0], result, task, metric, rows)
        if result.baseline:
            _draw_differences(line[1], result, task, metric, rows)
            line[1].set_yticklabels([])
    figure.suptitle(f"{task}: {result.titles[task]}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path)
    return path


def _draw_values(axis, result: Result, task: str, metric: str, rows: list[str]) -> None:
    for height, row in enumerate(rows):
        values = list(result.values(task, row, metric).values())
        axis.plot(values, [height] * len(values), "o", color=_SEED, alpha=0.7, markersize=4)
        if values:
            axis.plot([summarize(values).mean], [height], "|", color=_MEAN, markersize=14, markeredgewidth=2)
    _finish(axis, rows, metric_title(metric))


def _draw_differences(axis, result: Result, task: str, metric: str, rows: list[str]) -> None:
    axis.axvline(0, color=_ZERO, linewidth=1, linestyle="--")
    for height, row in enumerate(rows):
        difference = result.difference(task, row, metric)
        if row == result.baseline or not difference.seeds:
            continue
        axis.plot([difference.mean], [height], "D", color=_MEAN, markersize=5)
        if difference.interval is not None:
            axis.plot(difference.interval, [height] * 2, "-", color=_MEAN, linewidth=2)
    _finish(axis, rows, f"{metric_title(metric)} - {result.baseline}, 95 %")


def _finish(axis, rows: list[str], label: str) -> None:
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel(label, fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", alpha=0.3)
