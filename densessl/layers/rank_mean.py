"""Mean of a number over all processes, without gradient."""

import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


def rank_mean(value: Tensor) -> Tensor:
    """Mean of `value` over ranks, of the same shape, in float32 (float64 stays); every rank calls.

    Detectors divide their losses by counts of the whole batch: sum over ranks / world size, since DDP then
    averages the gradients.
    """
    value = value.detach()
    value = value.clone() if value.is_floating_point() else value.float()
    if comm.get_world_size() > 1:
        dist.all_reduce(value)
        value = value / comm.get_world_size()
    return value
