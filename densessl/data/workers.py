"""What runs in the loader's worker processes, and how their failures reach the trainer.

A DataError of a worker arrives in the main process as the same DataError, not as a traceback; a worker
that dies is named together with the sample it was loading; signals meant for the trainer do not kill
the workers, so that a run asked to stop can still save.
"""

import os
import random
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from densessl.data.samplers import Pairs, sample_seed
from densessl.errors import DataError


@contextmanager
def sample_rng(seed: int, epoch: int, index: int) -> Iterator[np.random.Generator]:
    """Seeds python's, numpy's and torch's CPU generators for one sample; yields a generator of its own.

    In the main process (num_workers=0) the previous states come back afterwards, so that loading does not
    disturb the model's random numbers. A worker reseeds before every sample and saves the 80 us.
    """
    states = None
    if get_worker_info() is None:
        states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    value = sample_seed(seed, epoch, index)
    random.seed(value)
    np.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value)
    try:
        yield np.random.Generator(np.random.PCG64(value))
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.default_generator.set_state(states[2])


@dataclass(frozen=True)
class CarriedError:
    """Message of a DataError on its way from a worker to the main process."""

    message: str


class BatchDataset(Dataset):
    """Loads and collates whole micro-batches, and notes which sample each worker has begun."""

    def __init__(self, dataset: Dataset, collate_fn: Callable[[list], Any] | None, num_workers: int):
        self.dataset, self.collate_fn = dataset, collate_fn
        # process id, epoch, index; shared memory, so the last entry outlives a killed worker
        self.progress = torch.zeros((max(num_workers, 1), 3), dtype=torch.int64).share_memory_()

    def __getitems__(self, pairs: Pairs) -> Any:
        """The collated samples, or a CarriedError."""
        info = get_worker_info()
        progress = self.progress[info.id if info else 0].numpy()
        samples = []
        try:
            for pair in pairs:
                progress[:] = (os.getpid(), *pair)
                samples.append(self.dataset[pair])
        except DataError as error:
            return CarriedError(str(error))
        return samples if self.collate_fn is None else self.collate_fn(samples)


def identity(batch: Any) -> Any:
    """Collate function of a loader whose data set returns collated batches."""
    return batch


def init_worker(_worker_id: int) -> None:
    """Worker start: one thread each, Ctrl-C left to the trainer, SIGTERM obeyed only from the trainer.

    Terminals and Slurm signal whole process groups. Were the workers to die of it, the trainer could not
    finish its step and save. A worker still ends with its parent: torch's worker loop watches for that.
    (A trainer that signals its own process group does end its workers.)
    """
    info = get_worker_info()
    info.dataset.progress[info.id] = torch.tensor([os.getpid(), -1, -1])
    torch.set_num_threads(1)
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def obey_parent() -> None:
        while True:
            if signal.sigwaitinfo({signal.SIGTERM}).si_pid in (parent, os.getpid()):
                os._exit(0)

    # Threads inherit the mask, so only the waiting thread ever takes the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=obey_parent, daemon=True, name="densessl-sigterm").start()


def explain_failure(
    error: RuntimeError, dataset: BatchDataset, name: Callable[[int], str]
) -> DataError | None:
    """A DataError that names worker and last sample, if `error` is torch's report of a dead or stuck worker.

    Args:
        error: raised by torch's DataLoader or its SIGCHLD handler.
        dataset: whose `progress` says what each worker had begun.
        name: maps the index of an image to its printable name.
    """
    text = str(error).splitlines()[0] if str(error) else ""
    dead = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", text)
    if not dead and "DataLoader timed out" not in text:
        return None
    rows = dataset.progress.tolist()
    pids = {int(pid) for pid in dead.group(1).split(",")} if dead else {row[0] for row in rows}
    last = [
        f"worker {worker} (pid {pid}) "
        + (f"at epoch {epoch}, sample {index}: {name(index)}" if epoch >= 0 else "before its first sample")
        for worker, (pid, epoch, index) in enumerate(rows)
        if pid in pids
    ]
    if not last:
        return None  # a worker of another loader
    where = "; ".join(last)
    if dead:
        return DataError(
            f"a data worker {dead.group(2).strip().rstrip('.')}; {where}. If the machine ran out of memory, "
            "lower dataloader.train.num_workers or prefetch_factor; otherwise try that file alone"
        )
    return DataError(f"no batch arrived: {text}; {where}. Check the storage, or raise timeout")


@contextmanager
def named_worker_deaths(explain: Callable[[RuntimeError], Exception | None]) -> Iterator[None]:
    """While active, torch's SIGCHLD handler raises what `explain` makes of its error.

    That handler reports a dead worker from whatever line the main thread happens to run, a model's forward
    for instance, where the loader could not add what it knows.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return

    def explained(signum: int, frame: Any) -> None:
        try:
            handler(signum, frame)
        except RuntimeError as error:
            explained_error = explain(error)
            if explained_error is None:
                raise
            raise explained_error from error

    signal.signal(signal.SIGCHLD, explained)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)
