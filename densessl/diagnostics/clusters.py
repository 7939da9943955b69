"""Unsupervised segmentation: k-means over cells, clusters matched to classes.

The protocol of PiCIE ("PiCIE: Unsupervised Semantic Segmentation Using Invariance and Equivariance in
Clustering", https://arxiv.org/abs/2103.17070, section 4.1): as many clusters as classes, one matching by the
Hungarian method on the confusion matrix of all images. n cells, C channels, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densessl.clustering.assignment import hungarian_match, merge_clusters
from densessl.diagnostics.segmentation import confusion_matrix, mean_iou

ITERATIONS, STARTS, SEED = 20, 3, 0


def cluster_cells(features: Tensor, num_clusters: int) -> Tensor:
    """Spherical k-means by faiss from k-means++ starts, the best of STARTS; the same every time.

    faiss itself starts from random rows; on well separated groups that often leaves one without a centre.

    Args:
        features: (n, C), any length.

    Returns:
        (n,) int64 cluster of each cell.
    """
    import faiss  # at call: 0.3 s

    rows = F.normalize(features.float(), dim=1).contiguous().numpy()
    clusters = min(num_clusters, len(rows))
    best, best_sum = None, -np.inf
    for start in range(STARTS):
        kmeans = faiss.Kmeans(
            rows.shape[1],
            clusters,
            niter=ITERATIONS,
            seed=SEED,
            spherical=True,
            min_points_per_centroid=1,  # a probe is small; faiss would warn
            max_points_per_centroid=len(rows),  # and use all of it
        )
        kmeans.train(rows, init_centroids=_spread_rows(rows, clusters, np.random.default_rng(SEED + start)))
        cosine, assignment = kmeans.index.search(rows, 1)
        if cosine.sum() > best_sum:
            best, best_sum = assignment[:, 0], cosine.sum()
    return torch.from_numpy(best)


def _spread_rows(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, C): k-means++ (Arthur and Vassilvitskii 2007), each row drawn by its squared distance."""
    chosen = [int(rng.integers(len(rows)))]
    distance = np.full(len(rows), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(rows - rows[chosen[-1]]).sum(1, dtype=np.float64))
        total = distance.sum()
        share = distance / total if total > 0 else None  # fewer different rows than clusters
        chosen.append(int(rng.choice(len(rows), p=share)))
    return rows[chosen]


def match_clusters(confusion: Tensor) -> Tensor:
    """The one-to-one matching of clusters to classes with the largest common area.

    Args:
        confusion: (K, P), class by cluster; P at most K, so that every cluster has a class.

    Returns:
        (K, K), the columns in the order of the classes; zero for a class without a cluster.
    """
    areas = confusion.numpy()
    return torch.from_numpy(merge_clusters(areas, hungarian_match(areas))[:, :-1])


def cluster_miou(features: Tensor, shares: Tensor) -> float:
    """Mean IoU in percent of K clusters after matching.

    Args:
        features: (n, C); shares: (n, K) class shares.
    """
    num_classes = shares.shape[1]
    assignment = cluster_cells(features, num_classes)
    return mean_iou(match_clusters(confusion_matrix(assignment, shares, num_classes)))
