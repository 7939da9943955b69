"""One training run of a benchmark, and the command that runs it."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from densessl.checkpoint.files import FINAL

PRETRAIN = "pretrain"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
# has a slash: a word or number alone could be read as a truth value, null or a number
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_.+@~-]*/[A-Za-z0-9_./+@~-]*")


@dataclass(frozen=True)
class Cell:
    """One run of `tools/lazyconfig_train_net.py`.

    Attributes:
        row: whose run it is: a method, or the name of a start.
        task: `PRETRAIN`, or the downstream task.
        seed: `train.seed`.
        config: path of the config file.
        overrides: `key=value`, without seed, initial weights and output directory.
        start: initial weights (path, run directory or URL); "" is random initialisation.
        needs: name of the cell whose last checkpoint gives the initial weights, "" for none.
        metrics: results it must give, such as "bbox/AP"; () for pretraining.
    """

    row: str
    task: str
    seed: int
    config: str
    overrides: tuple[str, ...] = ()
    start: str = ""
    needs: str = ""
    metrics: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """ "row/seed0/task": unique in a plan, and the directory below `cells/`."""
        return cell_name(self.row, self.seed, self.task)

    def directory(self, output: Path) -> Path:
        """The run's `train.output_dir`."""
        return output / "cells" / self.name

    def weights(self, output: Path) -> str:
        """`train.init_checkpoint`: "" for random initialisation."""
        return str(output / "cells" / self.needs / FINAL) if self.needs else self.start

    def all_overrides(self, output: Path, weights: str | None = None) -> list[str]:
        """The overrides of the run, its seed, directory and weights (or the `weights` given) included."""
        return [
            *self.overrides,
            f"train.seed={self.seed}",
            assignment("train.init_checkpoint", self.weights(output) if weights is None else weights),
            assignment("train.output_dir", str(self.directory(output))),
        ]


@dataclass(frozen=True)
class Trainer:
    """How cells are run.

    Attributes:
        script: path of `lazyconfig_train_net.py`.
        options: of that script, such as ("--num-gpus", "2").
    """

    script: str
    options: tuple[str, ...] = ()

    def train(self, cell: Cell, output: Path) -> list[str]:
        """The command that starts or resumes a cell."""
        return self._command(cell, "--resume", cell.all_overrides(output))

    def evaluate(self, cell: Cell, output: Path) -> list[str]:
        """The command that evaluates a cell whose training is done."""
        final = str(cell.directory(output) / FINAL)
        return self._command(cell, "--eval-only", cell.all_overrides(output, final))

    def _command(self, cell: Cell, mode: str, overrides: Sequence[str]) -> list[str]:
        return [
            *(sys.executable, self.script, "--config-file", cell.config, mode),
            *self.options,
            *overrides,
        ]


def cell_name(row: str, seed: int, task: str) -> str:
    """Name of a cell; see `Cell.name`."""
    return f"{row}/seed{seed}/{task}"


def is_name(text: str) -> bool:
    """Whether a row or task name can be a folder's name everywhere."""
    return _NAME.fullmatch(text) is not None


def assignment(key: str, value: str) -> str:
    """`key=value` in Hydra's grammar, quoted unless it is a path of plain characters."""
    if _PLAIN_PATH.fullmatch(value):
        return f"{key}={value}"
    escaped = value.replace('"', '\\"')
    return f'{key}="{escaped}"'


def shell(command: Sequence[str]) -> str:
    """A command to paste into a shell, with paths below the current directory made relative."""
    here = os.getcwd() + os.sep
    return shlex.join([part.removeprefix(here) for part in command])
