"""Exact geometry of one augmented view, and of two views of one image against each other.

A view is a crop of the oriented image, resized, then possibly mirrored left to right. Everything that
needs to know where a view came from asks this module: correspondence pictures, DenseSiam and PiCIE
(features warped into the other view), SiameseIM (relative position and scale), Siamese DETR (boxes).

Pixel convention, stated here once: coordinates are continuous, x to the right and y down, the image
spans [0, w] x [0, h], and the centre of pixel (column j, row i) is (j + 0.5, i + 0.5). Resizing with
`align_corners=False` maps these coordinates by pure scaling, and a mirror maps x to w - x, so each axis
of a view is one scale and one offset. Points are (x, y) last; boxes are (x0, y0, x1, y1); sizes are
(height, width), as d2 writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

Points = TypeVar("Points", np.ndarray, torch.Tensor)
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class ViewGeometry:
    """Where a view lies in its image.

    Args:
        image_size: (h, w) of the oriented image in pixels.
        x0, y0, x1, y1: the crop box in image coordinates, x0 < x1 and y0 < y1.
        output_size: (h, w) of the view in pixels.
        flip: whether the resized crop was mirrored left to right.
    """

    image_size: tuple[int, int]
    x0: float
    y0: float
    x1: float
    y1: float
    output_size: tuple[int, int]
    flip: bool = False

    def __post_init__(self) -> None:
        if not (self.x0 < self.x1 and self.y0 < self.y1):
            raise ValueError(f"the crop box ({self.x0}, {self.y0}, {self.x1}, {self.y1}) has no area")

    @property
    def box(self) -> Box:
        """The crop box (x0, y0, x1, y1) in image coordinates."""
        return self.x0, self.y0, self.x1, self.y1

    @property
    def scale(self) -> tuple[float, float]:
        """View pixels per image pixel along x (negative when mirrored) and y."""
        out_h, out_w = self.output_size
        x_scale = out_w / (self.x1 - self.x0)
        return (-x_scale if self.flip else x_scale), out_h / (self.y1 - self.y0)

    def to_view(self, points: Points) -> Points:
        """Image coordinates (..., 2) -> coordinates of this view; floating point numpy or torch."""
        x_scale, y_scale = self.scale
        x_edge = self.x1 if self.flip else self.x0  # the image column that becomes the view's left edge
        return _stack((points[..., 0] - x_edge) * x_scale, (points[..., 1] - self.y0) * y_scale)

    def to_image(self, points: Points) -> Points:
        """Coordinates of this view (..., 2) -> image coordinates; floating point numpy or torch."""
        x_scale, y_scale = self.scale
        x_edge = self.x1 if self.flip else self.x0
        return _stack(points[..., 0] / x_scale + x_edge, points[..., 1] / y_scale + self.y0)

    def boxes_to_view(self, boxes: Points) -> Points:
        """Boxes (..., 4) in image coordinates -> in this view, corners ordered again after a mirror."""
        corners = self.to_view(boxes.reshape(*boxes.shape[:-1], 2, 2))
        x, y = corners[..., 0], corners[..., 1]
        left, right = (1, 0) if self.flip else (0, 1)
        return _stack(x[..., left], y[..., 0], x[..., right], y[..., 1])

    def cell_centers(self, feature_size: tuple[int, int]) -> np.ndarray:
        """View coordinates (fh, fw, 2) float64 of the centres of a feature map of size (fh, fw)."""
        (out_h, out_w), (rows, columns) = self.output_size, feature_size
        x = (np.arange(columns) + 0.5) * (out_w / columns)
        y = (np.arange(rows) + 0.5) * (out_h / rows)
        return np.stack(np.meshgrid(x, y), axis=-1)


def overlap_box(a: ViewGeometry, b: ViewGeometry) -> Box | None:
    """The part of the image that both views show, (x0, y0, x1, y1) in image coordinates; None if empty.

    Views that only touch along an edge share no area and give None.

    Raises:
        ValueError: the views are of images of different sizes, so cannot be of one image.
    """
    _check_same_image(a, b)
    x0, y0 = max(a.x0, b.x0), max(a.y0, b.y0)
    x1, y1 = min(a.x1, b.x1), min(a.y1, b.y1)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def overlap_in_view(view: ViewGeometry, other: ViewGeometry) -> Box | None:
    """The part of `view` that `other` shows too, (x0, y0, x1, y1) in pixels of `view`; None if empty."""
    box = overlap_box(view, other)
    return None if box is None else tuple(view.boxes_to_view(np.asarray(box)).tolist())


def correspondence(
    a: ViewGeometry, b: ViewGeometry, feature_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Where the cells of view `a` lie in view `b`.

    Args:
        a, b: two views of one image.
        feature_size: (fh, fw) of the feature map laid over view `a`.

    Returns:
        points (fh, fw, 2) float64, the centre of each cell of `a` in view coordinates (pixels) of `b`;
        inside (fh, fw) bool, whether that point lies within `b`. Points outside are still exact.
    """
    _check_same_image(a, b)
    points = b.to_view(a.to_image(a.cell_centers(feature_size)))
    out_h, out_w = b.output_size
    x, y = points[..., 0], points[..., 1]
    return points, (x >= 0) & (x <= out_w) & (y >= 0) & (y <= out_h)


def sampling_grid(src: ViewGeometry, dst: ViewGeometry, feature_size: tuple[int, int]) -> torch.Tensor:
    """Grid that resamples a feature map of view `src` onto the cells of view `dst`.

    `F.grid_sample(src_features, grid[None], align_corners=False)` then holds, at each cell of `dst`, what
    `src` shows there; cells that `src` does not show have a coordinate beyond [-1, 1].

    Args:
        src, dst: two views of one image.
        feature_size: (fh, fw) of the result; the map of `src` may have any size.

    Returns:
        (fh, fw, 2) float32, x and y, where -1 and 1 are the outer edges of view `src`.
    """
    points, _ = correspondence(dst, src, feature_size)
    out_h, out_w = src.output_size
    return torch.from_numpy((points * (2.0 / np.array([out_w, out_h])) - 1.0).astype(np.float32))


def _stack(*columns: Points) -> Points:
    if isinstance(columns[0], torch.Tensor):
        return torch.stack(columns, dim=-1)
    return np.stack(columns, axis=-1)


def _check_same_image(a: ViewGeometry, b: ViewGeometry) -> None:
    if a.image_size != b.image_size:
        raise ValueError(f"views of different images: sizes {a.image_size} and {b.image_size} (h, w)")
