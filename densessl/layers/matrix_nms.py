"""Suppression of duplicates in SOLOv2: matrix NMS of masks, and NMS of points on the category grid.

"SOLOv2: Dynamic and Fast Instance Segmentation" (https://arxiv.org/abs/2003.10152), "Matrix NMS"; authors'
code aim-uofa/AdelaiDet, adet/modeling/solov2/utils.py. Letters: M masks, N images, C classes, S cells per
side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

KERNELS = ("gaussian", "linear")


def matrix_nms(
    masks: Tensor, classes: Tensor, scores: Tensor, kernel: str = "gaussian", sigma: float = 2.0
) -> Tensor:
    """Lowers the score of every mask by its overlap with better ones of its class, all at once.

    For mask j, the decay is the minimum over better masks i of f(iou_ij) / f(max over k better than i of
    iou_ki), with f(x) = exp(-sigma x^2) or 1 - x: the divisor asks how likely i itself is suppressed.
    Two masks of a class with IoU 0.5: the second keeps exp(-2 * 0.25) = 0.6065 of its score, or 0.5.

    Difference from the authors' code: with the linear kernel a copy of a better mask (IoU 1) suppresses
    nothing, where they divide 0 by 0 and drop every further copy as NaN instead of giving it the score 0.

    Args:
        masks: (M, H, W) bool, none empty, best score first.
        classes: (M,) int64.
        scores: (M,), descending.
        kernel: f, one of KERNELS.
        sigma: of the Gaussian kernel.

    Returns:
        (M,) scores, no longer sorted.

    Raises:
        ValueError: an unknown kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r}: use one of {', '.join(KERNELS)}")
    if len(scores) == 0:
        return scores
    with torch.autocast(masks.device.type, enabled=False):
        flat = masks.flatten(1).float()
        area = flat.sum(1)
        overlap = flat @ flat.t()  # (M, M), counts of pixels, exact
        iou = overlap / (area[:, None] + area[None, :] - overlap)
        # row i better than column j, same class
        iou = (iou * (classes[:, None] == classes[None, :])).triu(diagonal=1)
        suppressed = iou.amax(0)[:, None]  # of i by anything better
        if kernel == "gaussian":
            decay = torch.exp(-sigma * (iou.square() - suppressed.square()))
        else:
            decay = torch.where(suppressed < 1, (1 - iou) / (1 - suppressed), 1.0)
        return scores * decay.amin(0).to(scores.dtype)


def point_nms(scores: Tensor) -> Tensor:
    """Zeroes every cell that has a higher score above, to the left or above left of it.

    Of a 2x2 window that slides by one, this keeps what is the maximum of the window that ends there.

    Args:
        scores: (N, C, S, S), not negative.
    """
    best = F.max_pool2d(scores, kernel_size=2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (best == scores)
