"""Event storage that keeps device tensors until a log step, and the writers of a run.

detectron2's `EventStorage.put_scalar` calls `float(value)` (detectron2/utils/events.py), one host
synchronisation per number per step. Here a tensor stays on its device until `flush`, which copies all
of a log period at once and averages over ranks.
"""

import contextlib
import datetime
import errno
import json
import logging
import math
import os
import resource
import threading
import time
import uuid
from collections import defaultdict
from pathlib import Path

import torch
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import (
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from fvcore.common.history_buffer import HistoryBuffer

from densessl.checkpoint.files import write_failure
from densessl.errors import CheckpointError

_HISTORY = 1000  # values kept per name: bounded memory, and more than any window that is smoothed over
_SAVED = 20  # values per name that go into a checkpoint: the writers' smoothing window


class TensorEventStorage(EventStorage):
    """An `EventStorage` whose tensors wait on the device.

    `put_scalar` with a tensor only remembers it; with a number it behaves as detectron2's. Several
    values of one name in one iteration (micro-batches) are averaged.
    """

    def __init__(self, start_iter: int = 0) -> None:
        super().__init__(start_iter)
        self._history = defaultdict(lambda: HistoryBuffer(max_length=_HISTORY))
        self._pending: dict[tuple[str, int], list[torch.Tensor]] = defaultdict(list)

    @torch.compiler.disable  # detectron2's models call it; see densessl.utils.events.log_metric
    def put_scalar(
        self,
        name: str,
        value: float | torch.Tensor,
        smoothing_hint: bool = True,
        cur_iter: int | None = None,
    ) -> None:
        """Records `value` (a number, or a tensor with one element) for the current iteration."""
        if not isinstance(value, torch.Tensor):
            super().put_scalar(name, value, smoothing_hint, cur_iter)
            return
        name = self._current_prefix + name
        iteration = self._iter if cur_iter is None else cur_iter
        self._smoothing_hints.setdefault(name, smoothing_hint)
        self._pending[name, iteration].append(value.detach().reshape(()).float())

    @property
    def num_pending(self) -> int:
        """Number of tensors waiting for `flush`."""
        return sum(map(len, self._pending.values()))

    def flush(self, reduce: bool = True) -> None:
        """Moves the waiting tensors into the histories: one copy to the host, one gather over ranks.

        Args:
            reduce: average over ranks; every rank must call. A metric that only some ranks have (a
                detector without foreground, say) is averaged over those.
        """
        keys = list(self._pending)
        means = [torch.stack(self._pending[key]).mean() for key in keys]
        values = torch.stack(means).tolist() if means else []
        self._pending.clear()
        collected: dict[tuple[str, int], list[float]] = defaultdict(list)
        for rank_values in comm.gather(dict(zip(keys, values))) if reduce else [dict(zip(keys, values))]:
            for key, value in rank_values.items():
                collected[key].append(value)
        for (name, iteration), group in collected.items():
            mean = math.fsum(group) / len(group)
            self._smoothing_hints.setdefault(name, True)
            self._history[name].update(mean, iteration)
            self._latest_scalars[name] = (mean, iteration)

    def state_dict(self) -> dict:
        """Returns the recent histories as plain Python, so that smoothed values go on after a resume."""
        return {
            name: {
                "values": [[float(value), int(iteration)] for value, iteration in buffer.values()[-_SAVED:]],
                "count": int(buffer._count),
                "average": float(buffer.global_avg()),
                "smooth": bool(self._smoothing_hints[name]),
            }
            for name, buffer in self._history.items()
        }

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` returned."""
        for name, saved in state.items():
            buffer = HistoryBuffer(max_length=_HISTORY)
            for value, iteration in saved["values"]:
                buffer.update(value, iteration)
            buffer._count, buffer._global_avg = saved["count"], saved["average"]
            self._history[name] = buffer
            self._smoothing_hints[name] = saved["smooth"]
            # not _latest_scalars: the writers would write values of before the resume a second time


class TerminalWriter(EventWriter):
    """One line per log period: progress, ETA, wall-clock, images/s, data wait, memory, lr, losses."""

    def __init__(self, max_iter: int, window_size: int = 20) -> None:
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_iter = -1
        self._logger = logging.getLogger("densessl.progress")

    def write(self) -> None:
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(self._window_size)
        if "total_loss" not in latest or latest["total_loss"][1] <= self._last_iter:
            return  # nothing new: the call after training, or a period without a performed step
        self._last_iter = latest["total_loss"][1]
        number = {name: value for name, (value, _) in latest.items()}
        parts = [f"{self._last_iter + 1}/{self._max_iter}"]
        if "eta_seconds" in number:
            parts.append(f"eta {_clock(number['eta_seconds'])}")
            parts.append(f"elapsed {_clock(number['elapsed_seconds'])}")
            parts.append(f"{number['images_per_second']:.4g} img/s")
            parts.append(f"data wait {100 * number['data_wait']:.0f}%")
            parts.append(f"mem {number['peak_memory_mb'] / 1024:.2f}G")
        if "lr" in number:
            parts.append(f"lr {number['lr']:.4g}")
        losses = [
            f"{name} {value:.4g}" for name, value in number.items() if name.startswith(("loss", "total_loss"))
        ]
        shown = [f"{name} {value:.4g}" for name, value in number.items() if name == "grad_norm"]
        self._logger.info("  ".join([*parts, *losses, *shown]))


class WandbWriter(EventWriter):
    """Sends new scalars to Weights & Biases; a resumed run goes on in the run it began, `wandb_run_id`."""

    def __init__(self, project: str, output_dir: str, config: dict, window_size: int = 20) -> None:
        import wandb  # optional; checked before the run started

        kept = Path(output_dir) / "wandb_run_id"
        if not kept.exists():
            kept.write_text(uuid.uuid4().hex)
        identity = kept.read_text().strip()
        self._run = wandb.init(project=project, dir=output_dir, config=config, id=identity, resume="allow")
        self._window_size = window_size
        self._last_iter = -1

    def write(self) -> None:
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        new = {name: value for name, (value, iteration) in latest.items() if iteration > self._last_iter}
        if new:
            self._last_iter = max(iteration for _, iteration in latest.values())
            self._run.log(new, step=self._last_iter)

    def close(self) -> None:
        self._run.finish()


class WriterHook(PeriodicWriter):
    """detectron2's PeriodicWriter; a full disk or a directory that is gone stops the run with one message.

    Without the check TensorBoard would make a directory that is gone again, and the run would go on in one
    without lock, config and log.

    Args:
        writers: of the main process.
        period: iterations between writes.
        output_dir: what they write into.
    """

    def __init__(self, writers: list[EventWriter], period: int, output_dir: str) -> None:
        super().__init__(writers, period)
        self._output_dir = output_dir
        self._failed = False
        self._previous = threading.excepthook

    def before_train(self) -> None:
        self._previous, threading.excepthook = threading.excepthook, self._thread_failed

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        # TensorBoard's writing thread hands its OSError to the next write here: no traceback besides
        is_writer = type(failure.thread).__name__ == "_AsyncWriterThread"
        if not (is_writer and issubclass(failure.exc_type, OSError)):
            self._previous(failure)

    def after_step(self) -> None:
        try:
            if not os.path.isdir(self._output_dir):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            super().after_step()
        except OSError as error:
            self._failed = True
            raise self._explained(error) from error

    def after_train(self) -> None:
        try:
            if self._failed:
                self._close_quietly()
            else:
                super().after_train()
        except OSError as error:
            if self.trainer.iter == self.trainer.max_iter:
                raise self._explained(error) from error
            # Another error ends the run, the same full disk most likely: that one is to be seen.
            logging.getLogger(__name__).warning("The last metrics were not written: %s", error)
        finally:
            threading.excepthook = self._previous

    def _close_quietly(self) -> None:
        for writer in self._writers:
            with contextlib.suppress(OSError):  # of the failure that `after_step` has raised
                writer.close()

    def _explained(self, error: OSError) -> CheckpointError:
        return CheckpointError(write_failure(f"metrics to {self._output_dir}", self._output_dir, error))


def build_writers(
    output_dir: str, max_iter: int, start_iter: int, wandb: dict, config: dict
) -> list[EventWriter]:
    """Returns the writers of the main process: terminal, `metrics.json`, TensorBoard, W&B if enabled.

    Args:
        start_iter: records of `metrics.json` from this iteration on are dropped first: they belong to
            steps after the checkpoint that is being resumed, and will be written again.
        wandb: the `train.wandb` node: enabled, project.
        config: the resolved config, for W&B.
    """
    metrics = Path(output_dir) / "metrics.json"
    _trim_metrics(metrics, start_iter)
    writers = [
        TerminalWriter(max_iter),
        JSONWriter(str(metrics)),
        TensorboardXWriter(output_dir, purge_step=start_iter),
    ]
    if wandb["enabled"]:
        writers.append(WandbWriter(wandb["project"], output_dir, config))
    return writers


def peak_memory_mb(device: torch.device) -> float:
    """Returns the peak memory of this process in MiB: allocated on the GPU, or resident on a CPU run."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # kilobytes on Linux


def _trim_metrics(path: Path, start_iter: int) -> None:
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if _iteration_of(line) < start_iter]
    if len(kept) < len(lines):
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text("".join(kept))
        os.replace(temporary, path)


def _iteration_of(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except (json.JSONDecodeError, KeyError):
        return math.inf  # half a line, left by a killed process: dropped


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class StepTimer:
    """Wall-clock of a log period: whole steps, hooks included, and the part spent waiting for data."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._start, self._steps, self._data = time.perf_counter(), 0, 0.0

    def step(self, data_seconds: float) -> None:
        """Counts one step that waited `data_seconds` for the loader."""
        self._steps += 1
        self._data += data_seconds

    def summary(self) -> tuple[float, float, float]:
        """Returns (seconds in the period, seconds per step, fraction of them spent waiting for data)."""
        total = max(time.perf_counter() - self._start, 1e-9)
        return total, total / max(self._steps, 1), min(self._data / total, 1.0)
