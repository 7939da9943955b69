"""Exponential moving average of a module's parameters in a copy of it.

"Momentum Contrast for Unsupervised Visual Representation Learning" (https://arxiv.org/abs/1911.05722),
Eq. (2); authors' code facebookresearch/moco, moco/builder.py `_momentum_update_key_encoder`.
"""

import copy

import torch
from torch import Tensor, nn


def momentum_copy(module: nn.Module) -> nn.Module:
    """Returns a copy of `module`, equal in parameters and buffers, whose parameters take no gradient."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def update_momentum_copy(
    averaged: nn.Module,
    module: nn.Module,
    momentum: float,
    skip: Tensor | None = None,
    copy_buffers: bool = False,
) -> None:
    """averaged <- momentum * averaged + (1 - momentum) * module, in a few multi-tensor kernels.

    Args:
        averaged: what `momentum_copy(module)` returned.
        momentum: in [0, 1]; 1 leaves the copy as it is.
        skip: 0-dim tensor on the device; where true nothing changes. The parameters must then be finite,
            as they are when the optimiser's step was left out.
        copy_buffers: take over the buffers (batch norm statistics) of `module` too, as mmengine's
            ExponentialMovingAverage does. By default they stay those of the copy's own forward passes, as
            in the authors' code.
    """
    if copy_buffers:
        for target, source in zip(averaged.buffers(), module.buffers(), strict=True):
            target.copy_(source if skip is None else torch.where(skip.to(torch.bool), target, source))
    targets, sources = list(averaged.parameters()), list(module.parameters())
    if not targets:  # a part without parameters; multi-tensor kernels refuse empty lists
        return
    if skip is None:
        torch._foreach_lerp_(targets, sources, 1.0 - momentum)
    else:
        weight = (1.0 - momentum) * (1.0 - skip.to(targets[0].dtype))
        steps = torch._foreach_sub(sources, targets)
        torch._foreach_mul_(steps, weight)
        torch._foreach_add_(targets, steps)
