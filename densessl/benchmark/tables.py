"""Tables of a benchmark in Markdown, and the same numbers as JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from densessl.benchmark import machine
from densessl.benchmark.cells import PRETRAIN
from densessl.benchmark.collect import Entry, values
from densessl.benchmark.records import FINISHED
from densessl.benchmark.statistics import Difference, Summary, paired_difference, summarize
from densessl.visualization.tables import TASKS, duration


@dataclass(frozen=True)
class Result:
    """A benchmark as it stands.

    Attributes:
        title: heading.
        command: that made it.
        date: ISO, of the collection.
        seeds: of the plan.
        titles: task -> what it is; in the order of the tables.
        entries: one per cell.
        baseline: row that the others are compared with, "" for no comparison.
        strangers: cells on disk that the plan does not have.
        notes: paragraphs for the page: data, hyper-parameters.
        facts: for the JSON file: data sets, hyper-parameters.
    """

    title: str
    command: str
    date: str
    seeds: tuple[int, ...]
    titles: Mapping[str, str]
    entries: Sequence[Entry]
    baseline: str = ""
    strangers: Sequence[str] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, task: str) -> list[str]:
        """The rows of a task's table."""
        return list(dict.fromkeys(entry.cell.row for entry in self.entries if entry.cell.task == task))

    def metrics(self, task: str) -> tuple[str, ...]:
        """The columns of a task's table."""
        return next(entry.cell.metrics for entry in self.entries if entry.cell.task == task)

    def values(self, task: str, row: str, metric: str) -> dict[int, float]:
        """seed -> value."""
        return values(self.entries, task, row, metric)

    def summary(self, task: str, row: str, metric: str) -> Summary:
        """Mean and deviation over the seeds that have a value."""
        return summarize(list(self.values(task, row, metric).values()))

    def difference(self, task: str, row: str, metric: str) -> Difference:
        """To the baseline, paired by seed."""
        return paired_difference(self.values(task, row, metric), self.values(task, self.baseline, metric))

    def missing(self) -> list[str]:
        """One line per cell, or value of a finished cell, that the means do without."""
        lines = []
        for entry in self.entries:
            absent = [m for m in entry.cell.metrics if entry.results.get(m) is None]
            if entry.state != FINISHED:
                lines.append(f"{entry.cell.name}: {entry.reason}")
            elif absent:
                names = ", ".join(f"{m} ({'n/a' if m in entry.results else 'not measured'})" for m in absent)
                lines.append(f"{entry.cell.name}: finished without {names}")
        return lines


def markdown(result: Result) -> str:
    """The page: how it was made, one table per task, differences, every value, what is missing."""
    parts = [f"# {result.title}", f"    {result.command}", _made(result), *result.notes]
    missing = result.missing()
    if missing:
        parts.append(
            f"**Incomplete: {len(missing)} of {len(result.entries)} runs lack results**, listed below."
        )
    for task, title in result.titles.items():
        parts += [f"## {task}: {title}", _means(result, task)]
        if result.baseline:
            parts.append(_differences(result, task))
        parts.append(_every_value(result, task))
    if missing:
        parts += ["## Without results", "\n".join(f"- {line}" for line in missing)]
    if result.strangers:
        names = ", ".join(result.strangers)
        parts.append(f"Runs in the directory that are not part of this table: {names}.")
    parts += ["## Time", _times(result)]
    return "\n\n".join(parts) + "\n"


def as_json(result: Result) -> dict[str, Any]:
    """The same as plain values; NaN is null."""
    tables = {}
    for task in result.titles:
        tables[task] = {
            row: {metric: _numbers(result, task, row, metric) for metric in result.metrics(task)}
            for row in result.rows(task)
        }
    cells = [
        {**asdict(entry.cell), "name": entry.cell.name, "state": entry.state, "reason": entry.reason}
        | {"results": entry.results, "record": asdict(entry.record) if entry.record else None}
        for entry in result.entries
    ]
    return {
        "title": result.title,
        "command": result.command,
        "date": result.date,
        "seeds": list(result.seeds),
        "baseline": result.baseline,
        "tables": tables,
        "missing": result.missing(),
        "not_in_plan": list(result.strangers),
        "facts": dict(result.facts),
        "cells": cells,
    }


def write(result: Result, output: Path) -> list[Path]:
    """Writes results.md and results.json below `output`; returns their paths."""
    texts = {"results.md": markdown(result), "results.json": json.dumps(as_json(result), indent=1) + "\n"}
    for name, text in texts.items():
        (output / name).write_text(text, encoding="utf-8")
    return [output / name for name in texts]


def metric_title(metric: str) -> str:
    """ "bbox/AP50" -> "box AP50"."""
    task, _, name = metric.partition("/")
    return f"{TASKS.get(task, task)} {name}".strip()


def _made(result: Result) -> str:
    machines = {machine.sentence(e.record.machine) for e in result.entries if e.record and e.record.machine}
    dates = sorted({e.record.date for e in result.entries if e.record and e.record.date})
    lines = [f"Seeds {', '.join(map(str, result.seeds))}. Collected {result.date}."]
    if dates:
        lines.append(f"Run {dates[0]}." if len(dates) == 1 else f"Run {dates[0]} to {dates[-1]}.")
    if len(machines) > 1:
        lines.append("**Not all runs were made on the same machine**, so rounding differs between them:")
    lines += [f"{text}." for text in sorted(machines)]
    return " ".join(lines)


def _means(result: Result, task: str) -> str:
    metrics = result.metrics(task)
    rows = []
    for row in result.rows(task):
        cells = [_summary(result.summary(task, row, metric), len(result.seeds)) for metric in metrics]
        rows.append([row, *cells])
    note = "Mean ± standard deviation (n - 1) over seeds."
    return f"{note}\n\n{table(['', *map(metric_title, metrics)], rows)}"


def _differences(result: Result, task: str) -> str:
    metrics = result.metrics(task)
    rows = []
    for row in result.rows(task):
        if row == result.baseline:
            continue
        cells = [_difference(result.difference(task, row, metric), len(result.seeds)) for metric in metrics]
        rows.append([f"{row} - {result.baseline}", *cells])
    if not rows:
        return ""
    note = (
        f"Difference to {result.baseline}, paired by seed: mean ± standard deviation of the differences, and "
        "the 95 % interval of their mean (Student's t). If it holds 0, there may be none."
    )
    return f"{note}\n\n{table(['', *map(metric_title, metrics)], rows)}"


def _every_value(result: Result, task: str) -> str:
    metrics = result.metrics(task)
    rows = []
    for entry in result.entries:
        if entry.cell.task == task:
            numbers = [_value(entry, metric) for metric in metrics]
            rows.append([entry.cell.row, str(entry.cell.seed), *numbers])
    rows.sort(key=lambda cells: result.rows(task).index(cells[0]))
    return f"Every run:\n\n{table(['', 'seed', *map(metric_title, metrics)], rows)}"


def _times(result: Result) -> str:
    """Mean running time of the finished cells of each row; the clock of a shared machine."""
    groups: dict[tuple[str, str], list[float]] = {}
    for entry in result.entries:
        if entry.state == FINISHED and entry.record is not None:
            groups.setdefault((entry.cell.row, entry.cell.task), []).append(entry.record.seconds)
    if not groups:
        return "No run has finished."
    tasks = [t for t in (PRETRAIN, *result.titles) if any(task == t for _, task in groups)]
    rows = []
    for row in dict.fromkeys(row for row, _ in groups):
        means = [groups.get((row, task)) for task in tasks]
        rows.append([row, *(duration(summarize(m).mean) if m else "" for m in means)])
    return f"Mean of a finished run, from start to end of its process:\n\n{table(['', *tasks], rows)}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _summary(summary: Summary, planned: int) -> str:
    if not summary.n:
        return "none"
    deviation = f" ± {summary.deviation:.1f}" if summary.deviation is not None else ""
    return f"{summary.mean:.1f}{deviation}{_count(summary.n, planned)}"


def _difference(difference: Difference, planned: int) -> str:
    count = len(difference.seeds)
    if not count:
        return "none"
    text = f"{difference.mean:+.1f}"
    if difference.interval is not None:
        low, high = difference.interval
        text += f" ± {difference.deviation:.1f} [{low:+.1f}, {high:+.1f}]"
    return text + _count(count, planned)


def _count(n: int, planned: int) -> str:
    return "" if n == planned else f" ({n} of {planned} seeds)"


def _value(entry: Entry, metric: str) -> str:
    if entry.state != FINISHED:
        return f"none: {entry.reason.split(':')[0]}"
    value = entry.results.get(metric)
    return "n/a" if value is None else f"{value:.2f}"


def _numbers(result: Result, task: str, row: str, metric: str) -> dict[str, Any]:
    summary = result.summary(task, row, metric)
    own = {
        "values": result.values(task, row, metric),
        "n": summary.n,
        "mean": _plain(summary.mean),
        "deviation": summary.deviation,
    }
    if result.baseline and row != result.baseline:
        difference = asdict(result.difference(task, row, metric))
        own["difference"] = {**difference, "mean": _plain(difference["mean"])}
    return own


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
