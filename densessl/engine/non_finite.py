"""Finds the step whose loss or gradient stopped being finite, before anything is updated with it.

Two ways to look, the same verdict on every rank:

* at once: the host reads one flag per step (free on a CPU, one synchronisation on a GPU);
* deferred: the flag stays on the device and is sticky. Fused optimisers take it as `found_inf` and the
  meta-architecture as `skip`, so weights, moments, EMA copies and queues stay as they were before the
  bad step however many steps follow; the host looks at log steps and before a checkpoint is written.

Either way a capture file records what is needed to run the step again (`tools/replay_non_finite.py`).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn

from densessl.checkpoint.files import atomic_write
from densessl.checkpoint.state import collect_rng_state
from densessl.errors import NonFiniteError


@dataclass
class StepRecord:
    """What one rank fed to one optimiser step.

    Attributes:
        iteration: the step, counted from 0.
        rng: random states of this process before the step.
        samples: per micro-batch, the (epoch, index) of each sample; empty if the loader gives none.
        file_names: per micro-batch, the images' files.
        losses: per micro-batch, the loss terms (0-dim tensors on the device).
    """

    iteration: int
    rng: dict[str, Any]
    samples: list[list] = field(default_factory=list)
    file_names: list[list] = field(default_factory=list)
    losses: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def add(self, batch: Any, losses: dict[str, torch.Tensor]) -> None:
        """Notes one micro-batch, in either of the two batch forms."""
        if isinstance(batch, dict):
            samples, names = batch.get("sample", ()), batch.get("file_name", ())
        else:
            entries = [entry for entry in batch if isinstance(entry, dict)]
            samples = [entry["sample"] for entry in entries if "sample" in entry]
            names = [entry["file_name"] for entry in entries if "file_name" in entry]
        self.samples.append([[int(number) for number in sample] for sample in samples])
        self.file_names.append([str(name) for name in names])
        self.losses.append({name: loss.detach() for name, loss in losses.items()})

    def as_plain(self) -> dict[str, Any]:
        """Returns the record as plain Python; the losses are read from the device."""
        losses = [{name: float(value) for name, value in micro.items()} for micro in self.losses]
        return {
            "rank": comm.get_rank(),
            "rng": self.rng,
            "samples": self.samples,
            "file_names": self.file_names,
            "losses": losses,
        }


def gradient_norms(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Returns the 2-norm of each parameter's gradient, (P,) float32; 0 where there is no gradient.

    No host synchronisation. A norm is non-finite exactly if the gradient is, or overflows float32.
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not grads:
        return torch.zeros(len(parameters), device=parameters[0].device)
    norms = iter(torch._foreach_norm(grads))
    zero = torch.zeros((), device=grads[0].device)
    return torch.stack([zero if p.grad is None else next(norms).float() for p in parameters])  # (P,)


class NonFiniteGuard:
    """Watches the loss and the gradient norms of every step.

    Args:
        names: parameter names, in the order of the norms given to `update`.
        device: where losses and gradients live.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._names = list(names)
        self.flag = torch.zeros((), device=device)  # sticky: 1.0 from the first bad step on
        self._good_steps = torch.zeros((), device=device)  # since the host last looked
        self._norms = torch.zeros(
            len(names), device=device
        )  # of the last step with the flag down, or the bad one
        self._records: list[StepRecord] = []

    def begin(self, iteration: int) -> StepRecord:
        """Starts the record of a step; call before anything random happens in it."""
        self._records.append(StepRecord(iteration, collect_rng_state()))
        return self._records[-1]

    def update(self, loss: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """Judges one step on every rank.

        Args:
            loss: sum of the step's losses on this rank, 0-dim.
            norms: (P,) gradient norms.

        Returns:
            (2,) float on the device: 1.0 where the loss / the gradient of any rank is not finite.
        """
        bad = torch.stack([~torch.isfinite(loss), ~torch.isfinite(norms).all()]).float()
        if comm.get_world_size() > 1:
            # Averaged gradients spread a NaN to all ranks, but an infinite loss can have finite gradients.
            dist.all_reduce(bad, op=dist.ReduceOp.MAX)
        self._norms = torch.where(self.flag > 0, self._norms, norms)
        self.flag.copy_(torch.maximum(self.flag, bad.amax()))
        self._good_steps.add_(1 - self.flag)
        return bad

    def forgive(self) -> None:
        """Takes the verdict on the last step back: fp16 overflowed, the step is skipped, training goes on."""
        self.flag.zero_()
        self._good_steps.add_(1)

    def look(self) -> StepRecord | None:
        """Reads the flag (one host synchronisation).

        Returns:
            The record of the first bad step, or None; the records of good steps are dropped.
        """
        bad, good_steps = torch.stack([self.flag, self._good_steps]).tolist()
        record = self._records[int(good_steps)] if bad else None
        self._records.clear()
        self._good_steps.zero_()
        return record

    def capture(
        self, record: StepRecord, model: nn.Module, output_dir: str, performed_steps: int
    ) -> NonFiniteError:
        """Writes `<output_dir>/non_finite_<iteration>.pth`; every rank calls.

        The file holds, per rank, sample ids, file names, RNG states before the step and loss values;
        the names of parameters whose gradient is not finite; and `model.state_dict()`. The weights are
        those before the step (batch-norm running statistics have seen its forward pass).

        Args:
            record: of the bad step, from `look`.
            model: the bare module.
            output_dir: `train.output_dir`.
            performed_steps: optimiser steps before it; what the schedules are a function of.

        Returns:
            the error to raise.
        """
        plain = record.as_plain()
        ranks = comm.gather(plain)
        path = os.path.join(output_dir, f"non_finite_{record.iteration:07d}.pth")
        finite = torch.isfinite(self._norms).tolist()
        names = [name for name, ok in zip(self._names, finite) if not ok]
        if comm.is_main_process():
            content = {
                "iteration": record.iteration,
                "performed_steps": performed_steps,
                "ranks": ranks,
                "non_finite_gradients": names,
                "model": model.state_dict(),
            }
            atomic_write(path, lambda file: torch.save(content, file))
        return NonFiniteError(
            f"Iteration {record.iteration}: the loss or its gradient is not finite (losses of rank "
            f"{comm.get_rank()}: {plain['losses']}; {len(names)} of {len(finite)} parameters have a "
            f"non-finite gradient{', e.g. ' + names[0] if names else ''}). Nothing was updated with it. "
            f"Run the step again with `tools/replay_non_finite.py --config-file CONFIG {path}`; the last "
            "checkpoint is good: continue from it with a lower optimizer.lr, train.clip_grad.norm or "
            "train.amp.enabled=false."
        )
