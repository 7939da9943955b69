"""Two views of one photograph with known geometry, made to score correspondences.

Harder than a shift on purpose: the second view differs in position, scale, mirror and colour. A network
that only senses the border of its input, or copies colours, finds few partners.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densessl.data.geometry import Box, ViewGeometry, overlap_box
from densessl.data.transforms import PhotometricAugmentation, apply_to_view, crop_view, draw_view

AREA = (0.35, 0.8)  # of the photograph
SQUARE = (1.0, 1.0)  # width / height
MIN_OVERLAP = 0.3  # of the smaller crop: pairs with less have too few cells to score
# The colour jitter that DenseCL trains with, without its grayscale and blur.
COLOURS = PhotometricAugmentation(jitter_prob=1.0, grayscale_prob=0.0, blur_prob=0.0)


@dataclass(frozen=True)
class ViewPair:
    """Two views of one photograph.

    Attributes:
        images: (size, size, 3) uint8 RGB each.
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
    image_size, output_size = image.shape[:2], (size, size)
    first = draw_view(image_size, rng, output_size, AREA, SQUARE, flip_prob=0.0)
    while True:
        second = draw_view(image_size, rng, output_size, AREA, SQUARE, flip_prob=float(seed % 2))
        box = overlap_box(first, second)
        if box is not None and _area(box) >= MIN_OVERLAP * min(_area(first.box), _area(second.box)):
            break
    views = crop_view(image, first), apply_to_view(crop_view(image, second), COLOURS.draw(rng))
    return ViewPair(tuple(np.ascontiguousarray(v.transpose(1, 2, 0)) for v in views), (first, second))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
