"""Gathers what the cells of a plan reached, and names what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from densessl.benchmark.cells import Cell
from densessl.benchmark.records import FINISHED, RECORD, Record, cell_state, read_record, read_results


@dataclass(frozen=True)
class Entry:
    """Attributes:
    cell: what was to be run.
    state: see `records.cell_state`.
    results: of a finished cell, {"bbox/AP": 31.2}; else {}.
    reason: why there is no result, in words; "" for a finished cell.
    record: how it was run; None when it was not started by the runner.
    """

    cell: Cell
    state: str
    results: dict[str, float | None] = field(default_factory=dict)
    reason: str = ""
    record: Record | None = None


def collect(cells: Sequence[Cell], output: Path) -> list[Entry]:
    """One entry per cell, in order.

    Raises:
        ConfigError: a directory holds a run that differs from the plan.
        DataError: a result file is damaged.
    """
    entries: list[Entry] = []
    by_name: dict[str, Entry] = {}
    for cell in cells:
        folder = cell.directory(output)
        state, record = cell_state(cell, output), read_record(folder)
        results = read_results(folder) if state == FINISHED and cell.metrics else {}
        entry = Entry(cell, state, results, _reason(cell, state, record, by_name), record)
        entries.append(entry)
        by_name[cell.name] = entry
    return entries


def strangers(cells: Sequence[Cell], output: Path) -> list[str]:
    """Names of cells that were run below `output` and are not in the plan."""
    planned = {cell.name for cell in cells}
    root = output / "cells"
    found = sorted(path.parent.relative_to(root).as_posix() for path in root.glob(f"*/*/*/{RECORD}"))
    return [name for name in found if name not in planned]


def values(entries: Sequence[Entry], task: str, row: str, metric: str) -> dict[int, float]:
    """seed -> value, of the finished cells of a row in a task; seeds without a value are left out."""
    return {
        entry.cell.seed: entry.results[metric]
        for entry in entries
        if (entry.cell.task, entry.cell.row) == (task, row) and entry.results.get(metric) is not None
    }


def _reason(cell: Cell, state: str, record: Record | None, before: dict[str, Entry]) -> str:
    if state == FINISHED:
        return ""
    if cell.needs and before[cell.needs].state != FINISHED:
        return f"its pretraining {cell.needs} has not finished"
    if record is None:
        return "not run"
    if record.exit_status is None:
        return "running, or its runner was killed"
    if record.exit_status in (130, 143):
        return f"interrupted (status {record.exit_status})"
    if record.exit_status:
        last = record.tail[-1] if record.tail else "no message"
        return f"failed with status {record.exit_status} after {record.seconds:.0f} s: {last}"
    return f"the process ended well, but the run is only {state}"
