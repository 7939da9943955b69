"""The training loop: accumulation, autocast, clipping, the non-finite guard, metrics without host waits.

Extends detectron2's `SimpleTrainer` (detectron2/engine/train_loop.py); hooks work as there. Legend: one
*step* is one optimiser step, fed by `accumulate` micro-batches.
"""

import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine.train_loop import HookBase, SimpleTrainer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from densessl.engine.events import TensorEventStorage
from densessl.engine.launch import is_lost_connection
from densessl.engine.non_finite import NonFiniteGuard, StepRecord, gradient_norms
from densessl.errors import CheckpointError, ConfigError, DensesslError

# GradScaler starts at 2**16 and halves: after 40 skips in a row the scale is below 2**-24, where no
# float16 gradient can overflow because of it.
MAX_CONSECUTIVE_SKIPS = 40


class Trainer(SimpleTrainer):
    """Runs `accumulate` micro-batches and one optimiser step per iteration.

    The losses a model returns are summed; each key starts with "loss". What changes once per optimiser
    step besides the weights (EMA encoder, queue) is the model's `after_optimizer_step(skip)`, called
    after the optimiser; on a skipped float16 step `discard_pending()` is called instead.

    Args:
        model: the module, or the DistributedDataParallel around it.
        data_loader: iterable of micro-batches for this rank, endless.
        optimizer: a torch optimiser over the model's parameters.
        device: where the model lives.
        output_dir: receives the capture of a non-finite step.
        accumulate: micro-batches per step; each loss is divided by it.
        amp_dtype: autocast to this type (torch.bfloat16, torch.float16), or None. float16 comes with a
            gradient scaler and one host synchronisation per step: the schedules of the next step depend
            on whether this one was performed.
        clip_norm: scale the gradient down to this 2-norm; clip_value: clamp its elements, before that.
        log_period: iterations between reads of losses and metrics.
        deferred_check: leave the verdict of the non-finite guard on the device between log steps. None:
            on CUDA with fused optimisers. An optimiser that is not fused cannot take a device flag, so on
            CUDA it costs one host synchronisation per step.
        scaler: gradient scaler of a float16 run; None makes one.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        output_dir: str,
        accumulate: int = 1,
        amp_dtype: torch.dtype | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        log_period: int = 20,
        deferred_check: bool | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        super().__init__(model, data_loader, optimizer, gather_metric_period=log_period)
        self.module = model.module if isinstance(model, DistributedDataParallel) else model
        self.device = device
        self.output_dir = output_dir
        self.accumulate = accumulate
        self.amp_dtype = amp_dtype
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.log_period = log_period
        if amp_dtype is torch.float16 and scaler is None:
            scaler = torch.amp.GradScaler(device.type)
        self.scaler = scaler
        if deferred_check is None:
            deferred_check = device.type == "cuda" and all(g.get("fused") for g in optimizer.param_groups)
        self.deferred_check = deferred_check and scaler is None
        optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = [(name, p) for name, p in self.module.named_parameters() if id(p) in optimized]
        self._parameters = [p for _, p in named]
        self.guard = NonFiniteGuard([name for name, _ in named], device)
        if self.deferred_check:
            optimizer.found_inf = self.guard.flag  # read by fused kernels, which then leave everything as is
        self.storage = TensorEventStorage()
        self.stepped = True  # whether the last iteration performed its optimiser step
        self.skipped_steps = 0  # float16 steps not performed, since the start of training
        self._consecutive_skips = 0
        self.data_seconds = 0.0  # the last iteration's wait for the loader

    @property
    def performed_steps(self) -> int:
        """Optimiser steps performed before the current iteration: what schedules are a function of."""
        return self.iter - self.skipped_steps

    def train(self, start_iter: int, max_iter: int) -> None:
        """Trains iterations start_iter .. max_iter - 1. Errors for the user pass without a traceback."""
        logger = logging.getLogger(__name__)
        logger.info("Training from iteration %d to %d", start_iter, max_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter = max_iter  # hooks' after_train recognise a finished run by it
            except DensesslError:
                raise
            except Exception as error:
                if not is_lost_connection(error):  # the process that stopped says why
                    logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def close(self) -> None:
        """Ends the loader's workers; for after the last `train`.

        The trainer and its hooks refer to each other, so the workers would live until the garbage collector
        comes by, and by then torch's queues may be gone: it waits 5 s for each worker.
        """
        batches, self._data_loader_iter_obj = self._data_loader_iter_obj, None
        if batches is not None:
            batches.close()

    def run_step(self) -> None:
        """One optimiser step; see the class."""
        if not self.model.training:
            raise RuntimeError(
                "The model was left in evaluation mode; call model.train() after evaluating it."
            )
        record = self.guard.begin(self.iter)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._accumulate_gradients(record)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self.after_backward()
        norms = gradient_norms(self._parameters)
        bad = self.guard.update(loss, norms)
        self.storage.put_scalar("total_loss", loss)
        self.storage.put_scalar("grad_norm", torch.linalg.vector_norm(norms))
        if self.deferred_check:
            self._update(norms, skip=self.guard.flag)
        elif self._judge(bad):
            self._update(norms, skip=None)
        if (self.iter + 1) % self.log_period == 0 or self.iter + 1 == self.max_iter:
            self.synchronize()

    def synchronize(self) -> None:
        """Brings metrics and the guard's verdict to the host; every rank calls.

        Raises:
            NonFiniteError: a step since the last call was not finite.
        """
        self._stop_if_bad()
        self.storage.flush()

    def _accumulate_gradients(self, record: StepRecord) -> torch.Tensor:
        """Forward and backward of every micro-batch; returns the step's loss, 0-dim, detached."""
        total = torch.zeros((), device=self.device)
        self.data_seconds = 0.0
        for micro in range(self.accumulate):
            start = time.perf_counter()
            batch = next(self._data_loader_iter)
            self.data_seconds += time.perf_counter() - start
            # DDP averages gradients over ranks in the last backward pass only.
            last = micro + 1 == self.accumulate
            distributed = isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if distributed and not last else contextlib.nullcontext():
                with self._autocast():
                    losses = self.model(batch)
                _check_names(losses)
                loss = sum(losses.values()) / self.accumulate
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            record.add(batch, losses)
            for name, value in losses.items():
                self.storage.put_scalar(name, value)
            total = total + loss.detach().float()
        return total

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)

    def _judge(self, bad: torch.Tensor) -> bool:
        """Host-side verdict; returns whether to perform the step."""
        loss_bad, grad_bad = bad.tolist()
        self.stepped = not (loss_bad or grad_bad)
        if self.stepped:
            self._consecutive_skips = 0
            return True
        self._consecutive_skips += 1
        if self.scaler is None or loss_bad or self._consecutive_skips >= MAX_CONSECUTIVE_SKIPS:
            self._stop_if_bad()
        # The scaled gradient overflowed float16: the scaler lowers its factor and this step does not count.
        self.guard.forgive()
        self.skipped_steps += 1
        self.scaler.update()
        self.storage.put_scalar("skipped_steps", self.skipped_steps, smoothing_hint=False)
        if hasattr(self.module, "discard_pending"):
            self.module.discard_pending()
        return False

    def _stop_if_bad(self) -> None:
        record = self.guard.look()
        if record is not None:
            performed = record.iteration - self.skipped_steps
            raise self.guard.capture(record, self.module, self.output_dir, performed)

    def _update(self, norms: torch.Tensor, skip: torch.Tensor | None) -> None:
        """Clips, steps the optimiser and lets the model update its own state."""
        grads = [p.grad for p in self._parameters if p.grad is not None]
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(self._parameters, self.clip_value)
            norms = gradient_norms(self._parameters)
        if self.clip_norm is not None:
            # as torch.nn.utils.clip_grad_norm_, with the norms that the guard has computed anyway
            scale = self.clip_norm / (torch.linalg.vector_norm(norms) + 1e-6)
            torch._foreach_mul_(grads, scale.clamp(max=1.0))
        self.optimizer.step()
        if self.scaler is not None:
            self.scaler.update()
            self.storage.put_scalar("loss_scale", self.scaler._scale, smoothing_hint=False)
        if hasattr(self.module, "after_optimizer_step"):
            self.module.after_optimizer_step(skip=skip)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain Python and tensors. The optimiser is the checkpointer's own entry."""
        return {
            "iteration": self.iter,
            "skipped_steps": self.skipped_steps,
            "consecutive_skips": self._consecutive_skips,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "storage": self.storage.state_dict(),
            "hooks": {key: hook.state_dict() for key, hook in self._stateful_hooks().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            CheckpointError: the stateful hooks or the precision differ from those of the saved run.
        """
        hooks = self._stateful_hooks()
        if set(hooks) != set(state["hooks"]):
            raise CheckpointError(
                f"The checkpoint was written with the stateful hooks {sorted(state['hooks'])}, this run has "
                f"{sorted(hooks)}. Use the same train.hooks and train.ema, or start a new run from the "
                "weights with train.init_checkpoint."
            )
        if (self.scaler is None) != (state["scaler"] is None):
            raise CheckpointError(
                "One of checkpoint and run uses float16 with a gradient scaler, the other does not; "
                "use the same train.amp."
            )
        self.iter = state["iteration"]
        self.skipped_steps = state["skipped_steps"]
        self._consecutive_skips = state["consecutive_skips"]
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.storage.load_state_dict(state["storage"])
        for key, hook in hooks.items():
            hook.load_state_dict(state["hooks"][key])

    def _stateful_hooks(self) -> dict[str, HookBase]:
        """Hooks that can load a state, by class name; a second one of a class is `Name#2`."""
        found: dict[str, HookBase] = {}
        for hook in self._hooks:
            if not hasattr(hook, "load_state_dict"):
                continue
            name = type(hook).__qualname__
            number = 1 + sum(key.split("#")[0] == name for key in found)
            found[name if number == 1 else f"{name}#{number}"] = hook
        return found


def _check_names(losses: dict[str, torch.Tensor]) -> None:
    wrong = [name for name in losses if not name.startswith("loss")]
    if wrong or not losses:
        raise ConfigError(
            f"The model returned {sorted(losses)}: every entry is added to the loss, so each must be called "
            "loss*. Other numbers go to the event storage (densessl.utils.events.log_metric)."
        )
