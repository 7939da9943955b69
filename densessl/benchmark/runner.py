"""Runs the cells of a plan one after the other, each in a process of its own."""

import collections
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from types import FrameType

from densessl.benchmark.cells import Cell, Trainer, shell
from densessl.benchmark.records import (
    FINISHED,
    TRAINED,
    Record,
    cell_state,
    read_record,
    weights_of,
    write_record,
)
from densessl.checkpoint.files import FINAL, read_sidecar
from densessl.errors import DensesslError
from densessl.visualization.tables import duration

LOG = "process.log"
TAIL = 15  # lines of a failed process that are kept
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;]*m")


class BenchmarkInterrupted(DensesslError):
    """A signal stopped the benchmark, and the running cell has been told to save."""

    def __init__(self, signum: int, cell: str) -> None:
        super().__init__(
            f"Stopped by {signal.Signals(signum).name} at {cell}. The same command resumes there."
        )
        self.exit_code = 128 + signum


class Signals:
    """Hands SIGTERM and SIGINT to the running process while the `with` block runs; a second one kills it.

    The process has its own session, so that a terminal's Ctrl-C reaches it through here only, once.
    """

    def __init__(self) -> None:
        self.received = 0
        self.process: subprocess.Popen | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Signals":
        self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again, self.received = self.received, signum
        if self.process is None or self.process.poll() is not None:
            return
        if again:
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.send_signal(signal.SIGTERM)


def run_cells(
    cells: Sequence[Cell],
    output: Path,
    trainer: Trainer,
    machine: dict[str, str],
    progress: Callable[[str], None] = print,
) -> None:
    """Runs, resumes or evaluates every cell that is not finished; a failed one does not stop the others.

    How it went stands in each cell's record: see `collect.collect`.

    Args:
        cells: in an order in which a cell comes after the one it needs.
        output: directory of the benchmark.
        machine: for the records.
        progress: gets one line per step.

    Raises:
        ConfigError: a directory holds another run; said before anything is started.
        BenchmarkInterrupted: SIGTERM or SIGINT.
    """
    states = {cell.name: cell_state(cell, output) for cell in cells}
    with Signals() as signals:
        for number, cell in enumerate(cells, 1):
            if signals.received:
                raise BenchmarkInterrupted(signals.received, cell.name)
            head = f"[{number}/{len(cells)}] {cell.name}"
            if states[cell.name] == FINISHED:
                progress(f"{head}: finished before")
                continue
            if cell.needs and states[cell.needs] != FINISHED:
                progress(f"{head}: left out, since {cell.needs} has not finished")
                continue
            status = _run_cell(cell, states[cell.name], output, trainer, machine, signals, progress, head)
            if signals.received and status:
                raise BenchmarkInterrupted(signals.received, cell.name)
            states[cell.name] = cell_state(cell, output)


def _run_cell(
    cell: Cell,
    state: str,
    output: Path,
    trainer: Trainer,
    machine: dict[str, str],
    signals: Signals,
    progress: Callable[[str], None],
    head: str,
) -> int:
    folder = cell.directory(output)
    record = read_record(folder) or Record()
    evaluate = state == TRAINED  # killed between the last checkpoint and the end of the evaluation
    command = trainer.evaluate(cell, output) if evaluate else trainer.train(cell, output)
    verb = "evaluating" if evaluate else ("resuming" if record.attempts else "training")
    progress(f"{head}: {verb}, log in {folder / LOG}")
    record.attempts += 1
    if not evaluate:
        record.command = command
    record.weights = weights_of(cell, output)
    record.machine, record.date = machine, date.today().isoformat()
    record.exit_status, record.tail = None, []
    write_record(folder, record)
    started = time.monotonic()
    status = run_process(command, folder / LOG, signals)
    record.seconds += time.monotonic() - started
    record.exit_status = status
    if status:
        record.tail = last_lines(folder / LOG)
    elif evaluate:
        record.evaluated = read_sidecar(str(folder / FINAL)).sha256
    write_record(folder, record)
    outcome = f"status {status}: {record.tail[-1] if record.tail else 'no message'}" if status else "done"
    progress(f"{head}: {outcome} ({duration(time.monotonic() - started)})")
    return status


def run_process(command: Sequence[str], log: Path, signals: Signals) -> int:
    """Runs a command, appends its output to `log` and returns its exit status (128 + n after signal n)."""
    with open(log, "ab") as stream:
        stream.write(f"$ {shell(command)}\n".encode())
        stream.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )
        signals.process = process
        if signals.received:  # arrived before there was a process to hand it to
            process.send_signal(signal.SIGTERM)
        status = process.wait()
        signals.process = None
    return status if status >= 0 else 128 - status


def last_lines(log: Path, count: int = TAIL) -> list[str]:
    """The last non-empty lines of the last command in a log, without colour codes."""
    lines: collections.deque[str] = collections.deque(maxlen=count)
    with open(log, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if line.startswith("$ "):
                lines.clear()
            elif line.strip():
                lines.append(_TERMINAL_CODES.sub("", line.rstrip()))
    return list(lines)
