"""SIGTERM and SIGINT: finish the step, save, leave with a documented status."""

import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

import torch
import torch.distributed as dist
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from densessl.errors import DensesslError

_logger = logging.getLogger(__name__)
# SIGUSR2 is what Slurm sends through submitit before a time limit or a preemption.
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class TrainingInterrupted(DensesslError):
    """Training was asked to stop by a signal, and has saved. Status 143 (SIGTERM), 130 (SIGINT), 140."""

    same_on_all_ranks = True  # the main process says it

    def __init__(self, signum: int, iteration: int) -> None:
        super().__init__(
            f"Stopped by {signal.Signals(signum).name} after iteration {iteration}, which is saved; "
            "continue with --resume."
        )
        self.signum = signum
        self.exit_code = 128 + signum


class SignalHook(HookBase):
    """Stops all ranks after the same step, saved, when any of them got a signal; after CheckpointHook.

    A second SIGINT leaves at once with status 130; the last checkpoint is intact, since checkpoints are
    written atomically. With several processes the ranks agree through a small gloo all-reduce that runs
    in the background during the following step, so they stop one step later.

    Args:
        save: saves after the current iteration, on every rank.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self._received = 0
        self._previous: dict[int, object] = {}
        self._group: dist.ProcessGroup | None = None
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def before_train(self) -> None:
        for signum in _HANDLED:
            self._previous[signum] = signal.signal(signum, self._handle)
        if comm.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def after_train(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        if self._pending is not None and self.trainer.iter == self.trainer.max_iter:
            self._pending[0].wait()  # after an error on one rank the others may never answer

    def after_step(self) -> None:
        signum = self._agree()
        if signum and self.trainer.iter + 1 < self.trainer.max_iter:
            self._save()
            comm.synchronize()  # no rank leaves, and has the launcher stop the others, before all have saved
            raise TrainingInterrupted(signum, self.trainer.iter)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self._received == signal.SIGINT:
            os._exit(130)
        if not self._received:
            self._received = signum
            _logger.warning("Got %s: saving after this step.", signal.Signals(signum).name)

    def _agree(self) -> int:
        """Returns the signal that some rank has received, the same number on all ranks, or 0."""
        if self._group is None:
            return self._received
        if self._pending is not None:
            work, answer = self._pending
            work.wait()
            self._pending = None
            if int(answer):
                return int(answer)
        flag = torch.tensor(self._received, dtype=torch.int32)
        self._pending = (dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True), flag)
        return 0
