"""The one rule of precision of the losses."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Returns half-precision activations as float32; float64 stays, so that gradients can be checked."""
    return x if x.dtype == torch.float64 else x.float()
