"""A small training run in a process of its own, for tests that kill, starve or double it.

    python checkpoint_process.py DIRECTORY MODE [STEPS]

Modes: `die-at-replace` exits without cleaning up between writing the temporary and the rename; `small-disk`
limits the file size to half a checkpoint, both after STEPS good steps; `lock` holds the run directory until
its standard input closes; `gather` saves and resumes in two gloo processes, with torchrun's variables.
"""

import os
import random
import resource
import signal
import sys

import numpy as np
import torch
from detectron2.utils import comm
from torch import nn

from densessl.checkpoint import files
from densessl.checkpoint.checkpointer import TrainingCheckpointer
from densessl.engine.run_directory import RunDirectory
from densessl.errors import CheckpointError

CONFIG = {"model": {"width": 8}, "train": {"max_iter": 1000}}


class Loader:
    """Stands for the train loader: the state that a resume compares."""

    def __init__(self, **changes):
        self.values = {"seed": 0, "total_batch_size": 4, "world_size": 1, "num_images": 16, **changes}

    def state(self) -> dict:
        return dict(self.values)


class Trainer:
    """Counts what it trains on, so that a resume can be seen to continue."""

    def __init__(self):
        self.seen = 0.0

    def state_dict(self) -> dict:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict) -> None:
        self.seen = state["seen"]


class Run:
    """A run of random regression: every step draws its batch from torch's global generator."""

    def __init__(self, directory: str, *, width: int = 8, config=None, max_to_keep=2, **data):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.trainer = Trainer()
        self.checkpointer = TrainingCheckpointer(
            self.model,
            directory,
            data=Loader(**data),
            config=config or CONFIG,
            max_to_keep=max_to_keep,
            optimizer=self.optimizer,
            trainer=self.trainer,
        )

    def step(self) -> None:
        batch = torch.randn(8, 4)
        loss = self.model(batch).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.trainer.seen += float(loss.detach())

    def train(self, start: int, stop: int) -> None:
        for finished in range(start + 1, stop + 1):
            self.step()
            self.checkpointer.save_step(finished)


def main(directory: str, mode: str, steps: int = 3) -> None:
    torch.set_num_threads(1)
    if mode == "lock":
        with RunDirectory(directory, resume=True):
            print("locked", flush=True)
            sys.stdin.read()
        return
    if mode == "gather":
        torch.distributed.init_process_group("gloo")
        gather(directory, torch.distributed.get_rank())
        # detectron2 caches the group; kept alive until the interpreter ends, it aborts 9 exits of 12.
        comm._get_global_gloo_group.cache_clear()
        torch.distributed.destroy_process_group()
        return
    run = Run(directory)
    run.train(0, steps)
    if mode == "die-at-replace":
        replace = os.replace
        files.os.replace = lambda source, target: (
            os._exit(9) if target.endswith(".pth") else replace(source, target)
        )
    elif mode == "small-disk":
        size = os.path.getsize(os.path.join(directory, files.checkpoint_name(steps)))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
    run.train(steps, steps + 1)


def gather(directory: str, rank: int) -> None:
    """Saves on two ranks whose random streams stand at different points, draws, resumes, draws again."""
    run = Run(directory, world_size=2)
    torch.manual_seed(100 + rank)
    random.seed(200 + rank)
    np.random.seed(300 + rank)
    run.checkpointer.save_step(1)
    expected = draw()
    again = Run(directory, world_size=2)
    assert again.checkpointer.resume() == 1
    again.checkpointer.restore_rng()
    assert draw() == expected
    others = [None, None]
    torch.distributed.all_gather_object(others, expected)
    assert others[0] != others[1]
    if rank == 0:  # a failure of rank 0 must end both ranks, not leave one waiting
        again.trainer.seen = np.float64(0)
    try:
        again.checkpointer.save_step(2)
    except CheckpointError as error:
        print(f"rank {rank} refused: {error}", flush=True)


def draw() -> tuple[float, float, float]:
    """One number of each random stream."""
    return float(torch.rand(())), random.random(), float(np.random.rand())


def train_until_killed(directory: str, report: int) -> None:
    """Resumes, then saves every step for ever; writes each step saved to the descriptor `report`."""
    with RunDirectory(directory, resume=True):
        run = Run(directory)
        finished = run.checkpointer.resume() or 0
        run.checkpointer.restore_rng()
        while True:
            finished += 1
            run.train(finished - 1, finished)
            os.write(report, b"%d\n" % finished)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
