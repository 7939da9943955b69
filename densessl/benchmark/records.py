"""What the directory of a cell says: how far it is, with which config, what it reached, why it failed.

The trainer's own files decide (config.yaml, model_final.pth, evaluation.json). `cell.json` beside them adds
what only the runner knows: command, attempts, time, exit status, last lines, weights, machine.
"""

import functools
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from densessl.benchmark.cells import Cell
from densessl.checkpoint.compare import shorten
from densessl.checkpoint.files import FINAL, file_sha256, read_sidecar
from densessl.checkpoint.transfer import resolve_weights_path
from densessl.errors import ConfigError, DataError
from densessl.visualization.runs import CONFIG_FILE, read_config, read_recipe
from densessl.visualization.tables import flat_config

RECORD = "cell.json"
EVALUATION = "evaluation.json"
NEW, STARTED, TRAINED, FINISHED = "new", "started", "trained", "finished"
# Keys (dotted prefixes) that may differ between the plan and a run: where it lies, what it logs and saves,
# how many workers load. Weights are compared by content, not by path.
FREE_KEYS = (
    "train.output_dir",
    "train.init_checkpoint",
    "train.log_period",
    "train.checkpointer",
    "train.wandb",
    "dataloader.train.num_workers",
    "dataloader.test.num_workers",
)


@dataclass
class Record:
    """Attributes:
    command: the last one that trained, as a list of words.
    attempts: how often it was started.
    seconds: running time of all attempts together.
    exit_status: of the last attempt; None while it runs, or after the runner was killed.
    tail: last lines of the last attempt, when it failed.
    weights: path and sha256 of the initial weights; {} for random initialisation.
    machine: see `machine.describe`.
    date: of the last attempt, ISO.
    evaluated: sha256 of the checkpoint that `--eval-only` evaluated, "" if training did it.
    """

    command: list[str] = field(default_factory=list)
    attempts: int = 0
    seconds: float = 0.0
    exit_status: int | None = None
    tail: list[str] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    date: str = ""
    evaluated: str = ""


def read_record(folder: Path) -> Record | None:
    """The cell's record, None before its first start.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return Record(**json.loads((folder / RECORD).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{folder / RECORD} is damaged ({error}); delete {folder} to run the cell again."
        ) from error


def write_record(folder: Path, record: Record) -> None:
    """Writes the record in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{RECORD}.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(record), indent=1))
    temporary.replace(folder / RECORD)


def cell_state(cell: Cell, output: Path) -> str:
    """NEW, STARTED, TRAINED (evaluation missing) or FINISHED.

    Raises:
        ConfigError: the directory holds a run with another config or other initial weights.
    """
    folder = cell.directory(output)
    if not (folder / CONFIG_FILE).is_file():
        return NEW
    _refuse_other_run(cell, output)
    final = folder / FINAL
    sidecar = read_sidecar(str(final)) if final.is_file() else None
    if sidecar is None or sidecar.iteration != OmegaConf.select(
        read_config(folder / CONFIG_FILE), "train.max_iter"
    ):
        return STARTED
    if cell.metrics and not _is_evaluated(folder, sidecar.iteration, sidecar.sha256):
        return TRAINED
    return FINISHED


def read_results(folder: Path) -> dict[str, float | None]:
    """{"bbox/AP": 31.2, ...} of the last evaluation; None where the evaluator had nothing to measure.

    Raises:
        DataError: the file is damaged.
    """
    content = _read_evaluation(folder)
    flat: dict[str, float | None] = {}
    for task, values in content["results"].items():
        items = values.items() if isinstance(values, dict) else [("", values)]
        flat.update({f"{task}/{key}" if key else task: value for key, value in items})
    return flat


def weights_of(cell: Cell, output: Path) -> dict[str, str]:
    """Path and sha256 of the weights that a cell would start from now; {} for random initialisation.

    Raises:
        CheckpointError: they are not there.
    """
    path = cell.weights(output)
    if not path:
        return {}
    return {"path": path, "sha256": _digest(resolve_weights_path(path))}


@functools.lru_cache(maxsize=64)
def _digest_at(path: str, size: int, modified: int) -> str:
    return file_sha256(path)


def _digest(path: str) -> str:
    status = os.stat(path)
    return _digest_at(path, status.st_size, status.st_mtime_ns)


def _refuse_other_run(cell: Cell, output: Path) -> None:
    folder = cell.directory(output)
    saved = flat_config(read_config(folder / CONFIG_FILE))
    planned = flat_config(read_recipe(cell.config, cell.all_overrides(output)))
    changes = [
        f"{key}: {saved.get(key, 'not set')} there, {planned.get(key, 'not set')} in the plan"
        for key in sorted(saved.keys() | planned.keys())
        if saved.get(key) != planned.get(key) and not _is_free(key)
    ]
    record = read_record(folder)
    if record is not None and (not cell.needs or (output / "cells" / cell.needs / FINAL).is_file()):
        before, now = record.weights.get("sha256"), weights_of(cell, output).get("sha256")
        if before != now:
            changes.append(f"initial weights: {_short(before)} there, {_short(now)} in the plan")
    if changes:
        raise ConfigError(
            f"{cell.name}: {folder} holds a run that differs from the plan: {shorten(changes)}. Choose "
            "another --output, or delete that directory to run the cell again."
        )


def _is_free(key: str) -> bool:
    return any(key == prefix or key.startswith(prefix + ".") for prefix in FREE_KEYS)


def _short(digest: str | None) -> str:
    return f"sha256 {digest[:12]}" if digest else "random"


def _is_evaluated(folder: Path, iteration: int, digest: str) -> bool:
    if not (folder / EVALUATION).is_file():
        return False
    if _read_evaluation(folder)["iteration"] == iteration:
        return True
    record = read_record(folder)  # --eval-only does not know the iteration
    return record is not None and record.evaluated == digest


def _read_evaluation(folder: Path) -> dict:
    path = folder / EVALUATION
    try:
        content = json.loads(path.read_text())
        return {"iteration": content["iteration"], "results": dict(content["results"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is damaged ({error}); delete it, and the cell is evaluated again."
        ) from error
