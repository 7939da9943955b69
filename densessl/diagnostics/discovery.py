"""One box per image from the features alone, and how often it hits an object.

LOST, "Localizing Objects with Self-Supervised Transformers and no Labels" (https://arxiv.org/abs/2109.14279),
sections 3.2-3.4: the cell that resembles the fewest others is the seed; cells of low degree that resemble it
join it; the object is the connected part, around the seed, of the cells that resemble those on average.

Difference: features are centred on the mean of the image first. LOST reads the keys of a ViT, which have both
signs; after a ReLU every cosine is positive and nothing would have a degree below the others.
C channels, (h, w) cells; boxes (x0, y0, x1, y1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

# Share of the cells, those of lowest degree, that may join the seed. The paper takes 100 of some 1,000
# patches; a map of 7 x 7 cells, of which an object fills more, would be left with 5.
SEED_SHARE = 0.25
IOU = 0.5


def discover_box(feature_map: Tensor) -> tuple[int, int, int, int]:
    """The box of the most likely object.

    Args:
        feature_map: (C, h, w).

    Returns:
        (x0, y0, x1, y1) in whole cells, x1 and y1 exclusive.
    """
    rows = feature_map.double().flatten(1).t()  # (S, C)
    rows = F.normalize(rows - rows.mean(0), dim=1)
    similarity = rows @ rows.t()  # (S, S)
    degree = (similarity >= 0).sum(1)
    order = torch.argsort(degree, stable=True)
    seed = int(order[0])
    candidates = order[: max(1, round(SEED_SHARE * len(order)))]
    joined = candidates[similarity[seed, candidates] >= 0]  # holds the seed
    mask = (similarity[joined].sum(0) >= 0).reshape(feature_map.shape[1:]).numpy()
    parts, _ = scipy.ndimage.label(mask)
    own = parts == parts.flat[seed]
    y, x = np.nonzero(own)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def box_iou(box: Sequence[float], others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with each of (B, 4): (B,)."""
    corner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = corner.clip(min=0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    return common / ((box[2] - box[0]) * (box[3] - box[1]) + areas - common)


def corloc(feature_maps: Tensor, boxes: Sequence[np.ndarray]) -> float:
    """Correct localisation: percent of the images whose box has an IoU of 0.5 or more with some object.

    Images without objects do not count.

    Args:
        feature_maps: (N, C, h, w).
        boxes: for each image (B, 4) in shares of its width and height, in [0, 1].

    Raises:
        ValueError: no image has an object.
    """
    (height, width), hits = feature_maps.shape[2:], []
    for feature_map, objects in zip(feature_maps, boxes, strict=True):
        if len(objects):
            found = np.array(discover_box(feature_map)) / np.array([width, height, width, height])
            hits.append(bool((box_iou(found, objects) >= IOU).any()))
    if not hits:
        raise ValueError("no image has an object: CorLoc needs one")
    return 100.0 * float(np.mean(hits))
