"""Pictures of what a mapper returns: an image with its two crops, and both views with their common points."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import torch

from densessl.data.geometry import ViewGeometry, correspondence, overlap_in_view
from densessl.layers.photometric import apply_photometric

BLUE, ORANGE, WHITE, BLACK = (0, 114, 178), (230, 159, 0), (255, 255, 255), (0, 0, 0)
GAP = 6  # pixels between pictures
POINTS = (4, 4)  # rows and columns of points over the first view


def draw_box(picture: np.ndarray, box: tuple[float, float, float, float], color: tuple, scale: float) -> None:
    """Outline of a box, black below the colour so that it shows on any picture."""
    x0, y0, x1, y1 = (round(value * scale) for value in box)
    for ink, width in ((BLACK, 4), (color, 2)):
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), ink, width)


def draw_point(picture: np.ndarray, point: np.ndarray, number: int, total: int, scale: float) -> None:
    """A numbered disc whose centre is the point; pixel centres are at +0.5, OpenCV's at whole numbers."""
    center = tuple(int(v) for v in np.floor(point * scale))
    color = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(number / total, 0.9, 1.0))
    cv2.circle(picture, center, 6, BLACK, -1, cv2.LINE_AA)
    cv2.circle(picture, center, 5, color, -1, cv2.LINE_AA)
    corner = (center[0] + 7, center[1] + 4)
    for ink, width in ((BLACK, 3), (WHITE, 1)):
        cv2.putText(picture, str(number), corner, cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, width, cv2.LINE_AA)


def draw_sample(image: np.ndarray, sample: dict, size: int) -> np.ndarray:
    """One row (size, 3 size + 2 GAP, 3): the image, view 1, view 2."""
    scale = size / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for geometry, color in zip(sample["geometry"], (BLUE, ORANGE)):
        draw_box(small, geometry.box, color, scale)
    row = np.full((size, 3 * size + 2 * GAP, 3), 255, np.uint8)
    row[: small.shape[0], : small.shape[1]] = small
    for v, view in enumerate(shown_views(sample)):
        left = (v + 1) * (size + GAP)
        row[:, left : left + size] = draw_view_picture(view, sample["geometry"], v, size)
    return row


def draw_view_picture(view: np.ndarray, pair: list[ViewGeometry], v: int, size: int) -> np.ndarray:
    """View v of a pair enlarged to (size, size, 3), with the shared box and the points of the first view."""
    picture = cv2.resize(view, (size, size), interpolation=cv2.INTER_LINEAR)
    scale = size / view.shape[0]
    box = overlap_in_view(pair[v], pair[1 - v])
    if box is not None:
        draw_box(picture, box, WHITE, scale)
    in_second, inside = correspondence(*pair, POINTS)
    points = pair[0].cell_centers(POINTS) if v == 0 else in_second
    for number, (point, shared) in enumerate(zip(points.reshape(-1, 2), inside.ravel())):
        if shared:
            draw_point(picture, point, number, inside.size, scale)
    return picture


def shown_views(sample: dict) -> list[np.ndarray]:
    """The views as (H, W, 3) uint8, after the photometric work that is left to the device."""
    views = torch.stack(sample["views"])
    if "photometric" in sample:
        views = apply_photometric(views.float(), torch.stack(sample["photometric"])).round().byte()
    return [np.ascontiguousarray(view.permute(1, 2, 0).numpy()) for view in views]
