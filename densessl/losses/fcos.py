"""Box overlap and centre-ness of FCOS, on distances from a point to the four sides of a box.

"FCOS: A Simple and Strong Anchor-free Object Detector" (https://arxiv.org/abs/2006.09214), section 2;
authors' code aim-uofa/AdelaiDet, adet/utils/comm.py (`compute_ious`) and adet/modeling/fcos/fcos_outputs.py
(`compute_ctrness_targets`). Letters: P points; distances (left, top, right, bottom) >= 0 in strides.
"""

import torch
from torch import Tensor


def distance_giou(prediction: Tensor, target: Tensor) -> Tensor:
    """Generalised IoU of two boxes around the same point, with both areas of the IoU one larger.

    The added one is the authors': it keeps the ratio finite where a predicted box is empty. For prediction
    (1, 1, 1, 1) and target (1, 1, 3, 1): (4 + 1) / (8 + 1) - (8 - 8) / 8 = 0.5556.

    Args:
        prediction: (P, 4) distances.
        target: (P, 4) distances, of boxes that have an area.

    Returns:
        (P,), from -1 to 1.
    """
    inner, outer = torch.minimum(prediction, target), torch.maximum(prediction, target)
    intersection = _area(inner)
    union = _area(prediction) + _area(target) - intersection
    enclosing = _area(outer)
    return (intersection + 1) / (union + 1) - (enclosing - union) / enclosing


def centerness(distances: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)), Eq. (3): 1 in the centre of a box, 0 at its edge.

    Args:
        distances: (P, 4), positive.

    Returns:
        (P,), in [0, 1].
    """
    low = torch.minimum(distances[:, :2], distances[:, 2:])
    high = torch.maximum(distances[:, :2], distances[:, 2:])
    return (low / high).prod(1).sqrt()


def _area(distances: Tensor) -> Tensor:
    return (distances[:, 0] + distances[:, 2]) * (distances[:, 1] + distances[:, 3])
