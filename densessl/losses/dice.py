"""Dice loss of predicted masks.

"SOLO: Segmenting Objects by Locations" (https://arxiv.org/abs/1912.04488), "Loss Function", after V-Net
(https://arxiv.org/abs/1606.04797), with squares in the denominator; authors' code aim-uofa/AdelaiDet,
adet/modeling/solov2/loss.py. Letters: M masks.
"""

import torch
from torch import Tensor

from densessl.losses.precision import at_least_float32

EPSILON = 1e-3  # added to both sums of squares, so that two empty masks have a loss


def dice_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - 2 sum(p t) / (sum(p^2) + sum(t^2)) for each mask, in [0, 1].

    Up to EPSILON: 0 for identical masks of zeros and ones, 1 for disjoint ones, and for p = t / 2
    1 - 2 * 0.5 / (0.25 + 1) = 0.2. Two empty masks have 1, not 0.

    Args:
        prediction: (M, ...) probabilities in [0, 1]; the gradient flows here.
        target: (M, ...) bool or float in [0, 1].

    Returns:
        (M,), float32 (float64 for float64 input), also under autocast: sums of squares over a map overflow
        half precision.

    Raises:
        ValueError: shapes that differ; they would broadcast.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"shapes {tuple(prediction.shape)} and {tuple(target.shape)} must be equal")
    with torch.autocast(prediction.device.type, enabled=False):
        p = at_least_float32(prediction).flatten(1)
        t = target.flatten(1).to(p.dtype)
        overlap = (p * t).sum(1)
        squares = (p.square().sum(1) + EPSILON) + (t.square().sum(1) + EPSILON)
        return 1 - 2 * overlap / squares
