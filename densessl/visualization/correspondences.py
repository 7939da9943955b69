"""Dense correspondences: which location of one image looks like which location of another.

C channels, (h, w) feature map, S = h*w locations (row-major), M matches; points are (x, y) in pixels with
pixel centres at +0.5, as in `densessl.data.geometry`.

Matches are mutual nearest neighbours by cosine similarity above 0.9, the way the authors of DenseCL drew
theirs (https://github.com/WXinlong/DenseCL/issues/13). For two views of one photograph the true partner of
each location is known, which turns the picture into a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densessl.data.geometry import ViewGeometry, correspondence

THRESHOLD = 0.9
CORRECT, WRONG, UNKNOWN = (0, 158, 115), (213, 94, 0), (0, 114, 178)  # RGB, told apart by colour-blind eyes


@dataclass(frozen=True)
class Matches:
    """M matches between two maps, best first.

    Attributes:
        query: (M,) int64 flat locations of the first map.
        key: (M,) int64 flat locations of the second map.
        similarity: (M,) cosine in [-1, 1].
    """

    query: Tensor
    key: Tensor
    similarity: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, index) -> Matches:
        return Matches(self.query[index], self.key[index], self.similarity[index])


@dataclass(frozen=True)
class MatchAccuracy:
    """Counts of one pair of views; those of several pairs add up.

    Attributes:
        cells: locations of the first view whose true partner lies within the second.
        nearest_correct: of these, how many have their nearest neighbour within one cell of the truth.
        mutual: mutual matches above the threshold, also of locations that the other view does not show.
        mutual_correct: of these, how many lie within one cell of the truth; without a partner, none does.
        chance: expected `nearest_correct` of a uniformly random choice.
    """

    cells: int = 0
    nearest_correct: int = 0
    mutual: int = 0
    mutual_correct: int = 0
    chance: float = 0.0

    def __add__(self, other: MatchAccuracy) -> MatchAccuracy:
        return MatchAccuracy(
            self.cells + other.cells,
            self.nearest_correct + other.nearest_correct,
            self.mutual + other.mutual,
            self.mutual_correct + other.mutual_correct,
            self.chance + other.chance,
        )


def cosine_matrix(query: Tensor, key: Tensor) -> Tensor:
    """(C, h, w), (C, h', w') -> (S, S') cosine similarities in float32."""
    unit_query = F.normalize(query.float().flatten(1), dim=0)  # (C, S)
    unit_key = F.normalize(key.float().flatten(1), dim=0)  # (C, S')
    return unit_query.t() @ unit_key


def mutual_matches(query: Tensor, key: Tensor, threshold: float = THRESHOLD) -> Matches:
    """Pairs of locations that are each other's nearest neighbour and more similar than `threshold`.

    Args:
        query: (C, h, w) features of the first image.
        key: (C, h', w') features of the second image.
        threshold: cosine in [-1, 1]; -1 keeps every mutual pair.
    """
    similarity = cosine_matrix(query, key)
    best, key_of_query = similarity.max(dim=1)  # (S,)
    query_of_key = similarity.argmax(dim=0)  # (S',)
    locations = torch.arange(len(best), device=best.device)
    kept = torch.nonzero((query_of_key[key_of_query] == locations) & (best > threshold)).flatten()
    kept = kept[torch.argsort(best[kept], descending=True, stable=True)]
    return Matches(kept, key_of_query[kept], best[kept])


def cell_centres(map_size: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Centres of the cells of a feature map in pixels of its image.

    Args:
        map_size: (h, w) cells.
        image_size: (height, width) pixels.

    Returns:
        (h*w, 2) float64 (x, y), row-major.
    """
    (rows, columns), (height, width) = map_size, image_size
    y = (torch.arange(rows, dtype=torch.float64) + 0.5) * height / rows
    x = (torch.arange(columns, dtype=torch.float64) + 0.5) * width / columns
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=1)


def correct_pairs(
    map_size: tuple[int, int], query_geometry: ViewGeometry, key_geometry: ViewGeometry
) -> tuple[Tensor, Tensor]:
    """Which matches between two views of one photograph are right.

    A pair is right when the centre of the second view's cell is at most one cell from the true partner of
    the first view's cell, horizontally and vertically, and that partner lies within the second view.

    Args:
        map_size: (h, w) cells, the same for both views.

    Returns:
        (S, S) bool, right pairs of first and second location;
        (S,) bool, whether the true partner of a first location lies within the second view.
    """
    height, width = key_geometry.output_size
    partners, inside = correspondence(query_geometry, key_geometry, map_size)  # (h, w, 2), (h, w)
    partners = torch.from_numpy(partners).flatten(0, 1)  # (S, 2)
    inside = torch.from_numpy(inside).flatten()  # (S,)
    centres = cell_centres(map_size, key_geometry.output_size)  # (S, 2)
    cell = torch.tensor([width / map_size[1], height / map_size[0]], dtype=torch.float64)
    offsets = ((partners[:, None] - centres[None]).abs() / cell).amax(dim=2)  # (S, S)
    return (offsets <= 1) & inside[:, None], inside


def match_accuracy(
    query: Tensor,
    key: Tensor,
    query_geometry: ViewGeometry,
    key_geometry: ViewGeometry,
    threshold: float = THRESHOLD,
) -> MatchAccuracy:
    """Scores the matches of two views of one photograph against their geometry.

    `nearest_correct / cells` does not depend on a threshold and has the same denominator for every model:
    it is the number to compare.

    Args:
        query, key: (C, h, w) features of the two views, same size.
    """
    return count_matches(
        query, key, *correct_pairs(tuple(query.shape[1:]), query_geometry, key_geometry), threshold
    )


def count_matches(
    query: Tensor, key: Tensor, correct: Tensor, counted: Tensor, threshold: float = THRESHOLD
) -> MatchAccuracy:
    """Scores the matches of two images of which the right pairs are known.

    Args:
        query, key: (C, h, w) features of the two images, same size.
        correct: (S, S) bool, right pairs; a first location that does not count has none.
        counted: (S,) bool, first locations that have a partner.
    """
    nearest = cosine_matrix(query, key).argmax(dim=1)  # (S,)
    matches = mutual_matches(query, key, threshold)
    return MatchAccuracy(
        cells=int(counted.sum()),
        nearest_correct=int(correct[torch.arange(len(nearest)), nearest].sum()),
        mutual=len(matches),
        mutual_correct=int(correct[matches.query, matches.key].sum()),
        chance=float(correct.double().mean(dim=1).sum()),
    )


def draw_matches(
    query_image: np.ndarray,
    key_image: np.ndarray,
    matches: Matches,
    map_size: tuple[int, int],
    correct: Tensor | None = None,
) -> np.ndarray:
    """Two images side by side, matched locations joined by lines.

    Correct matches are green with a dot at each end, wrong ones orange with a cross at the second end;
    without `correct` all are blue.

    Args:
        query_image, key_image: (H, W, 3) uint8 RGB, same size.
        matches: drawn all; slice them first where that would be too many.
        map_size: (h, w) cells of both feature maps.
        correct: (M,) bool, or None where the truth is not known.

    Returns:
        (H, 2*W + gap, 3) uint8 RGB.
    """
    height, width = query_image.shape[:2]
    gap = max(4, width // 32)
    canvas = np.full((height, 2 * width + gap, 3), 255, np.uint8)
    canvas[:, :width], canvas[:, width + gap :] = query_image, key_image
    centres = cell_centres(map_size, (height, width)).numpy()
    thickness = max(1, round(height / 200))
    for marks in (False, True):  # all lines first: they would cover the marks of other matches
        for index in reversed(range(len(matches))):  # the best are drawn last, on top
            right = correct is None or bool(correct[index])
            colour = UNKNOWN if correct is None else CORRECT if right else WRONG
            start = tuple(np.rint(centres[int(matches.query[index])]).astype(int).tolist())
            end_x, end_y = np.rint(centres[int(matches.key[index])]).astype(int).tolist()
            end = (end_x + width + gap, end_y)
            draw = _draw_marks if marks else _draw_line
            draw(canvas, start, end, colour, thickness, right)
    return canvas


def _draw_line(canvas: np.ndarray, start, end, colour: tuple, thickness: int, right: bool) -> None:
    # A white border keeps the line visible on a picture of its own colour.
    cv2.line(canvas, start, end, (255, 255, 255), thickness + 2, cv2.LINE_AA)
    cv2.line(canvas, start, end, colour, thickness, cv2.LINE_AA)


def _draw_marks(canvas: np.ndarray, start, end, colour: tuple, thickness: int, right: bool) -> None:
    """A dot at the start; at the end a dot where the match is right, else a cross."""
    cv2.circle(canvas, start, 2 + 2 * thickness, colour, -1, cv2.LINE_AA)
    if right:
        cv2.circle(canvas, end, 2 + 2 * thickness, colour, -1, cv2.LINE_AA)
        return
    for ink, size, width in (((255, 255, 255), 12, thickness + 3), (colour, 10, thickness + 1)):
        cv2.drawMarker(canvas, end, ink, cv2.MARKER_TILTED_CROSS, size * thickness, width)
