"""Two views of one photograph with known geometry, made to score correspondences.

Harder than a shift on purpose: the second view differs in position, scale, mirror and colour. A network
that only senses the border of its input, or copies colours, finds few partners.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import ColorJitter

from densessl.data.geometry import ViewGeometry, overlap_box

AREA = (0.35, 0.8)  # of the photograph
MIN_OVERLAP = 0.3  # of the smaller crop: pairs with less have too few cells to score
JITTER = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)  # as DenseCL is trained


@dataclass(frozen=True)
class ViewPair:
    """Attributes:
    images: two (size, size, 3) uint8 RGB views.
    geometry: where each lies in the photograph.
    """

    images: tuple[np.ndarray, np.ndarray]
    geometry: tuple[ViewGeometry, ViewGeometry]


def view_pair(image: np.ndarray, size: int, seed: int) -> ViewPair:
    """Cuts two overlapping squares, mirrors the second for odd seeds and changes its colours.

    Args:
        image: (H, W, 3) uint8 RGB.
        size: side of the views in pixels.
        seed: the same seed gives the same views.
    """
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    first = _crop(rng, height, width, size, flip=False)
    while True:
        second = _crop(rng, height, width, size, flip=seed % 2 == 1)
        box = overlap_box(first, second)
        if box is not None and _area(box) >= MIN_OVERLAP * min(_area(first.box), _area(second.box)):
            break
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        other = ColorJitter(**JITTER)(torch.from_numpy(_cut(image, second)).permute(2, 0, 1))
    return ViewPair((_cut(image, first), other.permute(1, 2, 0).contiguous().numpy()), (first, second))


def _crop(rng: np.random.Generator, height: int, width: int, size: int, flip: bool) -> ViewGeometry:
    # Squares: at most the short side, so the area is counted against the largest square that fits.
    side = max(1, round(min(height, width) * rng.uniform(*AREA) ** 0.5))
    x0, y0 = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
    return ViewGeometry((height, width), x0, y0, x0 + side, y0 + side, (size, size), flip)


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _cut(image: np.ndarray, geometry: ViewGeometry) -> np.ndarray:
    x0, y0, x1, y1 = (int(v) for v in geometry.box)
    patch = image[y0:y1, x0:x1]
    height, width = geometry.output_size
    method = cv2.INTER_AREA if patch.shape[0] > height else cv2.INTER_LINEAR
    patch = cv2.resize(patch, (width, height), interpolation=method)
    return np.ascontiguousarray(patch[:, ::-1]) if geometry.flip else patch
