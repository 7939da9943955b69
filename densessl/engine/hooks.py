"""Hooks of the trainer: schedules, EMA copies, throughput, checkpoints, evaluation.

Every hook runs on every rank unless it says otherwise.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.engine.hooks import EvalHook
from detectron2.engine.train_loop import HookBase
from torch import nn

from densessl.checkpoint.state import collect_rng_state, restore_rng_state
from densessl.engine.events import StepTimer, peak_memory_mb
from densessl.errors import CheckpointError, ConfigError


class Schedule:
    """A number that follows training progress.

    Args:
        target: what is set:
            "lr": each parameter group's learning rate = its configured rate times the scheduler (groups
            with `fixed_lr` stay as they are); "weight_decay": set in every group whose configured decay
            is not zero; "model.<path>": an attribute of the model, e.g. "model.momentum";
            "hooks.<ClassName>.<attribute>", e.g. "hooks.EMAHook.momentum".
        scheduler: fvcore ParamScheduler, or any function of progress in [0, 1).
    """

    def __init__(self, target: str, scheduler: Callable[[float], float]) -> None:
        if target not in ("lr", "weight_decay") and target.split(".")[0] not in ("model", "hooks"):
            raise ConfigError(
                f"train.schedules: target {target!r} is unknown; use lr, weight_decay, model.<attribute> or "
                "hooks.<ClassName>.<attribute>."
            )
        self.target = target
        self.scheduler = scheduler


class ParamScheduleHook(HookBase):
    """Applies every schedule before each step, at progress = performed steps / max_iter.

    A float16 step that is skipped does not advance the progress. The base learning rate of a group is
    its `initial_lr`, which the optimiser's state carries: a resumed run goes on with the base it began
    with, and the checkpointer says so when the config has another.
    """

    def __init__(
        self, schedules: Sequence[Schedule], optimizer: torch.optim.Optimizer, max_iter: int
    ) -> None:
        names = [schedule.target for schedule in schedules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"train.schedules: {', '.join(twice)} has two schedules (lr_multiplier is the one of lr)."
            )
        self._schedules = list(schedules)
        self._optimizer = optimizer
        self._max_iter = max_iter
        for group in optimizer.param_groups:
            group["initial_lr"] = float(group["lr"])
        self._decays = [bool(group.get("weight_decay", 0.0)) for group in optimizer.param_groups]
        # the group with the most parameters stands for all in the logs, as in detectron2's LRScheduler
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        self._shown = sizes.index(max(sizes))

    def before_train(self) -> None:
        """Checks that every target exists."""
        for schedule in self._schedules:
            if schedule.target not in ("lr", "weight_decay"):
                self._owner(schedule.target)

    def before_step(self) -> None:
        progress = self.trainer.performed_steps / self._max_iter
        storage = self.trainer.storage
        groups = self._optimizer.param_groups
        for schedule in self._schedules:
            value = float(schedule.scheduler(progress))
            if schedule.target == "lr":
                for group in groups:
                    if not group.get("fixed_lr", False):
                        group["lr"] = group["initial_lr"] * value
            elif schedule.target == "weight_decay":
                for group, decays in zip(groups, self._decays):
                    group["weight_decay"] = value if decays else 0.0
                storage.put_scalar("weight_decay", value, smoothing_hint=False)
            else:
                owner, name = self._owner(schedule.target)
                setattr(owner, name, value)
                storage.put_scalar(f"schedule/{schedule.target}", value, smoothing_hint=False)
        storage.put_scalar("lr", groups[self._shown]["lr"], smoothing_hint=False)

    def _owner(self, target: str) -> tuple[Any, str]:
        """Returns the object and attribute name that `target` stands for."""
        root, *path, name = target.split(".")
        if root == "model":
            owner: Any = self.trainer.module
        else:
            matching = [hook for hook in self.trainer._hooks if type(hook).__name__ == path[0]]
            if not matching:
                known = sorted({type(hook).__name__ for hook in self.trainer._hooks})
                raise ConfigError(
                    f"train.schedules: {target}: no hook {path[0]!r}; there are {', '.join(known)}."
                )
            owner, path = matching[0], path[1:]
        for part in path:
            owner = getattr(owner, part, None)
        if not isinstance(getattr(owner, name, None), (int, float)):
            raise ConfigError(f"train.schedules: {target} is not a number that can be scheduled.")
        return owner, name


class EMAHook(HookBase):
    """Exponential moving average of a submodule: average = m * average + (1 - m) * value.

    Updated once per performed optimiser step; integer and batch-norm buffers are copied. The average is
    saved with the trainer and readable as `average` (a state dict).

    Args:
        model: the meta-architecture.
        module: dotted name of the submodule, "" for the whole model.
        momentum: m; schedulable as "hooks.EMAHook.momentum".
    """

    def __init__(self, model: nn.Module, module: str, momentum: float) -> None:
        try:
            source = model.get_submodule(module)
        except AttributeError as error:
            known = [name for name, _ in model.named_children()]
            raise ConfigError(
                f"train.ema.module={module!r}: {error}. The model has {', '.join(known)}."
            ) from error
        if not 0.0 <= momentum <= 1.0:
            raise ConfigError(f"train.ema.momentum={momentum} is outside [0, 1].")
        self.module, self.momentum = module, momentum
        parameters = dict(source.named_parameters())
        state = source.state_dict(keep_vars=True)
        self._source = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        self.average = {name: value.detach().clone() for name, value in self._source.items()}
        self._averaged = [name for name in self._source if name in parameters]
        self._copied = [name for name in self._source if name not in parameters]

    @torch.no_grad()
    def after_step(self) -> None:
        # After a non-finite step in deferred mode this still runs until the next log step; the run then
        # stops without another checkpoint, so the average is not used.
        if not self.trainer.stepped:
            return
        averages = [self.average[name] for name in self._averaged]
        values = [self._source[name].detach() for name in self._averaged]
        torch._foreach_lerp_(averages, values, 1.0 - self.momentum)
        for name in self._copied:
            self.average[name].copy_(self._source[name])

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.module, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["module"] != self.module or set(state["average"]) != set(self.average):
            raise CheckpointError(
                f"train.ema.module={self.module!r}, but the checkpoint averages {state['module']!r}; "
                "set that."
            )
        for name, value in state["average"].items():
            self.average[name].copy_(value)


class ThroughputHook(HookBase):
    """Logs seconds per step, images/s, data-wait share, wall-clock, ETA and peak memory, at log steps.

    Between log steps nothing is read from the device, so on CUDA the period's wall-clock is right while
    single steps' would not be.

    Args:
        images_per_step: global batch per optimiser step.
        device: whose memory is reported.
    """

    def __init__(self, images_per_step: int, device: torch.device) -> None:
        self._images_per_step = images_per_step
        self._device = device
        self._timer = StepTimer()
        self._elapsed = 0.0  # seconds of training, earlier sessions included

    def before_train(self) -> None:
        self._timer.reset()

    def after_step(self) -> None:
        trainer = self.trainer
        self._timer.step(trainer.data_seconds)
        if (trainer.iter + 1) % trainer.log_period and trainer.iter + 1 != trainer.max_iter:
            return
        total, per_step, data_wait = self._timer.summary()
        self._timer.reset()
        self._elapsed += total
        storage = trainer.storage
        storage.put_scalar("time", per_step)
        median = storage.history("time").median(20)
        storage.put_scalars(
            smoothing_hint=False,
            images_per_second=self._images_per_step / per_step,
            data_wait=data_wait,
            elapsed_seconds=self._elapsed,
            eta_seconds=median * (trainer.max_iter - trainer.iter - 1),
            peak_memory_mb=peak_memory_mb(self._device),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": self._elapsed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._elapsed = state["elapsed"]


class CheckpointHook(HookBase):
    """Saves every `period` iterations and after the last one, on all ranks together.

    A save that fails (disk full, directory gone) raises CheckpointError and training stops: the
    checkpoints before it are intact, and going on would train hours that cannot be kept.

    Args:
        save: `save(iteration, final=bool)` with the number of finished iterations; called on every rank.
        period: iterations between checkpoints.
    """

    def __init__(self, save: Callable[..., object], period: int) -> None:
        self._save = save
        self._period = period
        self._last_saved: int | None = None

    def after_step(self) -> None:
        finished = self.trainer.iter + 1
        if finished % self._period == 0 or finished == self.trainer.max_iter:
            self.save_now()

    def save_now(self) -> None:
        """Saves after the current iteration, unless that was done already."""
        finished = self.trainer.iter + 1
        if finished == self._last_saved:
            return
        self.trainer.synchronize()  # never a checkpoint after a non-finite step
        self._save(finished, final=finished == self.trainer.max_iter)
        self._last_saved = finished


class EvaluationHook(EvalHook):
    """detectron2's EvalHook, with the random state left as it was, and only after a run that succeeded.

    A run resumed from a checkpoint that was written just before an evaluation would else see other random
    numbers than the run that was not interrupted.

    Args:
        period: iterations between evaluations; 0: only after training.
        evaluate: returns a nested dict of numbers on the main process.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict]) -> None:
        def neutral() -> dict:
            state = collect_rng_state()
            results = evaluate()
            restore_rng_state(state)
            return results

        super().__init__(period, neutral)

    def after_train(self) -> None:
        # EvalHook would also run, with collectives, when the last iteration failed on one rank
        if self.trainer.iter == self.trainer.max_iter:
            super().after_train()
