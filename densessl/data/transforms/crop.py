"""Random resized crop and mirror: the geometric half of a contrastive view.

Law of the crop: Szegedy et al., https://arxiv.org/abs/1409.4842, as torchvision's RandomResizedCrop
draws it (`torchvision/transforms/transforms.py`, `RandomResizedCrop.get_params`), which is what MoCo,
DenseCL and SimSiam use. Only the source of random numbers differs: an explicit generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from densessl.data.geometry import ViewGeometry

_TRIES = 10  # torchvision's, before it falls back to a central crop


def draw_crop_box(
    image_size: tuple[int, int],
    rng: np.random.Generator,
    scale: Sequence[float] = (0.2, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draw the box of a random resized crop.

    Args:
        image_size: (h, w) in pixels, each at least 1.
        rng: source of randomness.
        scale: least and greatest area of the crop as a share of the image; drawn uniformly.
        ratio: least and greatest width / height; drawn log-uniformly.

    Returns:
        (x0, y0, x1, y1) in whole pixels, at least 1 x 1. After ten draws that do not fit, the largest
        central crop whose ratio is allowed.
    """
    height, width = image_size
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_TRIES):
        area = height * width * rng.uniform(scale[0], scale[1])
        aspect = math.exp(rng.uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            y0 = int(rng.integers(0, height - h + 1))
            x0 = int(rng.integers(0, width - w + 1))
            return x0, y0, x0 + w, y0 + h

    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    y0, x0 = (height - h) // 2, (width - w) // 2
    return x0, y0, x0 + w, y0 + h


def draw_view(
    image_size: tuple[int, int],
    rng: np.random.Generator,
    output_size: tuple[int, int],
    scale: Sequence[float] = (0.2, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
    flip_prob: float = 0.5,
) -> ViewGeometry:
    """Draw crop and mirror of one view; sizes are (h, w) in pixels. See `draw_crop_box`."""
    x0, y0, x1, y1 = draw_crop_box(image_size, rng, scale, ratio)
    flip = bool(rng.random() < flip_prob)
    return ViewGeometry(tuple(image_size), x0, y0, x1, y1, tuple(output_size), flip)


def crop_view(image: np.ndarray, geometry: ViewGeometry) -> np.ndarray:
    """Cut a view out of an image: crop, bilinear resize with antialiasing, mirror.

    The array goes to torchvision as (3, h, w) with the memory order of (h, w, 3): that path works on
    uint8 with vector instructions and takes a third of the time of PIL, whose pixels it gives to 1/255.
    The published stacks mirror last, after the colour operations; those do not depend on position and
    the blur is symmetric, so mirroring here gives the same pixels.

    Args:
        image: (h, w, 3) uint8.
        geometry: the view; its box must be in whole pixels and inside the image.

    Returns:
        (3, H, W) uint8, C-contiguous, not sharing memory with `image`.

    Raises:
        ValueError: the image is not of the size the geometry was drawn for, or the box is fractional.
    """
    if image.shape[:2] != geometry.image_size:
        raise ValueError(f"image of size {image.shape[:2]}, geometry for {geometry.image_size} (h, w)")
    x0, y0, x1, y1 = (int(value) for value in geometry.box)
    if (x0, y0, x1, y1) != geometry.box:
        raise ValueError(f"cannot crop a box that is not in whole pixels: {geometry.box}")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    view = F.resized_crop(tensor, y0, x0, y1 - y0, x1 - x0, list(geometry.output_size), antialias=True)
    if view.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():
        view = view.clone()  # a crop that needs no resizing is a window of the image
    view = view.contiguous().numpy()
    if geometry.flip:
        for plane in view:
            cv2.flip(plane, 1, plane)
    return view
