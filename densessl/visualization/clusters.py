"""Cluster maps: k-means over all locations of all images, each cluster in a colour and pattern of its own.

N images, C channels, (h, w) feature map, S locations of all images together, K clusters.

One clustering serves all images of a model: equal colours mean the same cluster across photographs. The
cells are not smoothed, so that the picture shows the resolution that the features have.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from densessl.clustering.spherical import cluster_cells
from densessl.visualization.detections import CLASS_COLOURS
from densessl.visualization.features import locations

NUM_CLUSTERS = 8
COLOURS = (*CLASS_COLOURS, (150, 150, 150))  # further clusters start again
TINT = 0.6  # share of the colour; the rest is the photograph


def cluster_maps(feature_maps: Sequence[Tensor], num_clusters: int = NUM_CLUSTERS) -> list[np.ndarray]:
    """Spherical k-means (cosine similarity, as the dense methods compare) over all maps together.

    Cluster 0 is the largest, so that two runs of the same features give the same colours.

    Args:
        feature_maps: N tensors (C, h, w); sizes may differ, C may not.
        num_clusters: K; fewer where there are fewer locations.

    Returns:
        N arrays (h, w) int64 in [0, K).
    """
    rows = torch.cat([locations(m) for m in feature_maps])  # (S, C)
    found = cluster_cells(rows, num_clusters).numpy()  # (S,)
    order = np.argsort(-np.bincount(found, minlength=num_clusters), kind="stable")
    found = np.argsort(order)[found]
    sizes = [m.shape[1] * m.shape[2] for m in feature_maps]
    parts = np.split(found, np.cumsum(sizes)[:-1])
    return [part.reshape(m.shape[1:]) for part, m in zip(parts, feature_maps)]


def shares(maps: Sequence[np.ndarray]) -> np.ndarray:
    """(K,) share of all locations in each cluster, largest first."""
    counts = np.bincount(np.concatenate([m.ravel() for m in maps]))
    return counts / counts.sum()


def draw_clusters(image: np.ndarray, cluster_map: np.ndarray) -> np.ndarray:
    """The photograph tinted by cluster, with borders and the number of the cluster in each of its parts.

    Args:
        image: (H, W, 3) uint8 RGB.
        cluster_map: (h, w) int64.

    Returns:
        (H, W, 3) uint8 RGB, a new array. Numbers count from 1; a part is a connected piece of a cluster.
    """
    height, width = image.shape[:2]
    large = cv2.resize(cluster_map.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    colours = np.array(COLOURS, np.float64)[large % len(COLOURS)]  # (H, W, 3)
    grey = image.mean(axis=2, keepdims=True)  # the photograph's own colours would mix with the cluster's
    canvas = (TINT * colours + (1 - TINT) * grey).round().astype(np.uint8)
    for cluster in np.unique(cluster_map):
        mask = (large == cluster).astype(np.uint8)
        outline = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0]
        cv2.drawContours(canvas, outline, -1, (255, 255, 255), max(1, round(max(height, width) / 320)))
        _number_parts(canvas, mask, int(cluster) + 1)
    return canvas


def _number_parts(canvas: np.ndarray, mask: np.ndarray, number: int) -> None:
    """Writes the number where each part is widest: colour alone must not name a cluster."""
    scale = max(0.35, max(canvas.shape[:2]) / 800)
    count, parts = cv2.connectedComponents(mask)
    for part in range(1, count):
        # The edge of the picture counts as a border: numbers must not be cut by it.
        inner = np.pad((parts == part).astype(np.uint8), 1)
        distance = cv2.distanceTransform(inner, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(distance.argmax(), distance.shape)
        (width, height), _ = cv2.getTextSize(str(number), cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        origin = (int(x) - width // 2, int(y) + height // 2)
        for ink, line in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(canvas, str(number), origin, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, line, cv2.LINE_AA)
