"""Batch-norm statistics of the weights as they are, in place of running averages over past weights."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.engine.train_loop import HookBase
from detectron2.utils.events import EventStorage
from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats
from torch import nn

from densessl.checkpoint.state import collect_rng_state, restore_rng_state
from densessl.errors import ConfigError

_logger = logging.getLogger(__name__)


class PreciseBNHook(HookBase):
    """Recomputes the running statistics of all batch-norm layers before each evaluation and at the end.

    With the weights fixed, training batches go through the model in training mode, without autocast as in
    the evaluation; mean and variance over all of them replace the running averages ("Rethinking 'Batch' in
    BatchNorm", arXiv:2105.07576, section 3; fvcore.nn.precise_bn). Hooks of `train.hooks` run before the
    checkpoint and the evaluation, so both have these statistics; training goes on from them.

    Differences from detectron2's PreciseBN (detectron2/engine/hooks.py): the batches are those that training
    takes next, a function of seed and step, where a resumed run of detectron2 sees others; random states and
    the keys that a method keeps for its queue are left alone. As there, `num_batches_tracked` counts on, and
    plain batch norms of several processes (not SyncBN) each have their own statistics, of which those of the
    main process are saved.

    Args:
        period: iterations between updates, `train.eval_period`; 0: only after the last.
        num_iter: batches, each as large as that of an optimiser step.
    """

    def __init__(self, period: int, num_iter: int) -> None:
        if period < 0 or num_iter < 1:
            raise ConfigError(
                f"train.hooks: PreciseBNHook with period={period} and num_iter={num_iter}; the period "
                "must be at least 0 and num_iter at least 1."
            )
        self._period = period
        self._num_iter = num_iter

    def before_train(self) -> None:
        if not get_bn_modules(self.trainer.module):
            _logger.warning(
                "PreciseBNHook does nothing: the model has no batch norm in training mode (frozen ones do "
                "not count). Leave it out of train.hooks."
            )

    def after_step(self) -> None:
        finished = self.trainer.iter + 1
        if finished == self.trainer.max_iter or (self._period > 0 and finished % self._period == 0):
            self.update()

    def update(self) -> None:
        """Recomputes the statistics now; on every rank."""
        model = self.trainer.module
        layers = get_bn_modules(model)
        if not layers:
            return
        start = time.perf_counter()
        count = self._num_iter * self.trainer.accumulate
        # fvcore puts new tensors in the place of the buffers, which others (EMAHook, DDP) hold on to
        names = ("running_mean", "running_var")
        buffers = [(layer, name, getattr(layer, name)) for layer in layers for name in names]
        random_state = collect_rng_state()
        batches = self._batches()
        try:
            with EventStorage():  # takes the metrics of these passes, and is dropped
                update_bn_stats(_Passes(model), batches, count)
        finally:
            batches.close()  # ends the loader's workers
        restore_rng_state(random_state)
        with torch.no_grad():
            for layer, name, buffer in buffers:
                setattr(layer, name, buffer.copy_(getattr(layer, name)))
        _logger.info(
            "Statistics of %d batch norms recomputed on %d batches in %.1f s",
            *(len(layers), count, time.perf_counter() - start),
        )

    def _batches(self) -> Iterator[Any]:
        """This rank's micro-batches from the next step on; the trainer's own iterator stays where it is."""
        loader = self.trainer.data_loader
        before = loader.sampler.start_step
        loader.set_step(self.trainer.iter + 1)
        try:
            yield from loader
        finally:
            loader.set_step(before)


class _Passes(nn.Module):
    """Forward passes that leave nothing behind but batch-norm statistics."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> None:
        # not model(batch): with train.compile that would be compiled anew for fvcore's hooks, in every update
        self.model.forward(batch)
        if hasattr(self.model, "discard_pending"):
            self.model.discard_pending()
