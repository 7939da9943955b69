"""From a suite and seeds to the list of cells. Pure: nothing is read or written here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from densessl.benchmark.cells import PRETRAIN, Cell, cell_name
from densessl.benchmark.suites import Comparison, Method, Task, Trial


def plan_transfer(
    starts: Mapping[str, str], tasks: Sequence[Task], seeds: int, overrides: Sequence[str] = ()
) -> list[Cell]:
    """Every start in every task with every seed, seed by seed so that a partial table is balanced.

    Args:
        starts: name -> weights, "" for random initialisation.
        seeds: number of seeds; they are 0 .. seeds - 1.
        overrides: applied to every cell, after the task's own.
    """
    return [
        Cell(name, task.name, seed, task.config, (*task.overrides, *overrides), start, metrics=task.metrics)
        for seed in range(seeds)
        for task in tasks
        for name, start in starts.items()
    ]


def plan_comparison(suite: Comparison, seeds: int, overrides: Sequence[str] = ()) -> list[Cell]:
    """Pretraining of each method and the fine-tunings from it, seed by seed.

    Args:
        seeds: number of seeds; they are 0 .. seeds - 1.
        overrides: applied to every cell, last.
    """
    return [
        cell
        for seed in range(seeds)
        for method in suite.methods
        for cell in _method_cells(suite, method, method.trials[method.chosen], seed, overrides)
    ]


def plan_tuning(suite: Comparison, overrides: Sequence[str] = ()) -> list[Cell]:
    """Every trial of every method with the seed kept for that; the row is "method-trial0"."""
    return [
        cell
        for method in suite.methods
        for index, trial in enumerate(method.trials)
        for cell in _method_cells(
            suite, replace(method, name=trial_row(method, index)), trial, suite.tuning_seed, overrides
        )
    ]


def trial_row(method: Method, index: int) -> str:
    """Name of a trial in the table of trials."""
    return f"{method.name}-trial{index}"


def _method_cells(
    suite: Comparison, method: Method, trial: Trial, seed: int, overrides: Sequence[str]
) -> list[Cell]:
    cells = []
    if method.config:
        own = (*trial.pretrain, *suite.pretrain, *overrides)
        cells.append(Cell(method.name, PRETRAIN, seed, method.config, own))
    needs = cell_name(method.name, seed, PRETRAIN) if method.config else ""
    for task in suite.tasks:
        own = (*task.overrides, *trial.downstream, *suite.downstream, *overrides)
        cells.append(Cell(method.name, task.name, seed, task.config, own, needs=needs, metrics=task.metrics))
    return cells
