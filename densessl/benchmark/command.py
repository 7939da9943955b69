"""What the command lines of the benchmarks share; imports nothing heavy, so that --help is immediate."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densessl.errors import ConfigError, DensesslError

if TYPE_CHECKING:
    from densessl.benchmark.cells import Cell, Trainer
    from densessl.benchmark.tables import Result


class BenchmarkIncomplete(DensesslError):
    """Some runs have no results; the table says which and why."""


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Adds what both tools take."""
    add = parser.add_argument
    add("--seeds", type=int, default=3, metavar="N", help="seeds 0 .. N-1 (default: 3)")
    add("--device", default="auto", choices=("auto", "cuda", "cpu"), help="train.device (default: auto)")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes of each run (default: 1)")
    add("--dry-run", action="store_true", help="print the plan with every command, and stop")
    add("--collect-only", action="store_true", help="write the table of what is there; run nothing")
    add("opts", nargs="*", metavar="key=value", help="overrides for every run")


def check_common_options(args: argparse.Namespace) -> None:
    """Raises ConfigError for numbers that mean nothing."""
    for option, value in (("seeds", args.seeds), ("num-gpus", args.num_gpus)):
        if value < 1:
            raise ConfigError(f"--{option} {value} must be at least 1.")


def trainer(args: argparse.Namespace) -> "Trainer":
    """The trainer beside the tool that was called."""
    from densessl.benchmark.cells import Trainer

    script = str(Path(sys.argv[0]).resolve().with_name("lazyconfig_train_net.py"))
    return Trainer(script, ("--num-gpus", str(args.num_gpus)))


def print_plan(cells: "Sequence[Cell]", output: Path, trainer: "Trainer") -> None:
    """Prints every cell with its command."""
    from densessl.benchmark.cells import shell

    for number, cell in enumerate(cells, 1):
        after = f" (after {cell.needs})" if cell.needs else ""
        print(f"# {number}/{len(cells)} {cell.name}{after}\n{shell(trainer.train(cell, output))}")


def execute(
    cells: "Sequence[Cell]",
    output: Path,
    args: argparse.Namespace,
    check: Callable[[], None],
    report: Callable[[], "Result"],
) -> None:
    """Checks, runs and reports; the table is written whatever happened to the runs.

    Args:
        check: raises what is wrong with the plan; called before the first run.
        report: writes the tables and returns what is in them.

    Raises:
        BenchmarkIncomplete: a run has no results.
    """
    from densessl.benchmark import machine
    from densessl.benchmark.runner import run_cells
    from densessl.engine.run_directory import RunDirectory

    tool = trainer(args)
    if args.dry_run:
        print_plan(cells, output, tool)
        return
    with RunDirectory(str(output), resume=True):
        if not args.collect_only:
            check()
            facts = machine.describe(args.device)
            try:
                run_cells(cells, output, tool, facts, progress)
            except DensesslError:
                report()
                raise
        result = report()
    missing = result.missing()
    if missing:
        raise BenchmarkIncomplete(
            f"{len(missing)} of {len(cells)} runs lack results: {'; '.join(missing[:5])}"
            f"{' ...' if len(missing) > 5 else ''}. The same command tries them again."
        )


def progress(text: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(text, flush=True)
