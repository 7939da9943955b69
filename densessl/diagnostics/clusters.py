"""Unsupervised segmentation: k-means over cells, clusters matched to classes.

The protocol of PiCIE ("PiCIE: Unsupervised Semantic Segmentation Using Invariance and Equivariance in
Clustering", https://arxiv.org/abs/2103.17070, section 4.1): as many clusters as classes, one matching by the
Hungarian method on the confusion matrix of all images. n cells, C channels, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from densessl.diagnostics.segmentation import confusion_matrix, mean_iou

ITERATIONS, STARTS, SEED = 20, 3, 0


def cluster_cells(features: Tensor, num_clusters: int) -> Tensor:
    """Spherical k-means, the best of STARTS fixed random starts.

    Args:
        features: (n, C), any length.

    Returns:
        (n,) int64 cluster of each cell.
    """
    import faiss  # at call: 0.3 s

    rows = F.normalize(features.float(), dim=1).contiguous().numpy()
    clusters = min(num_clusters, len(rows))
    kmeans = faiss.Kmeans(
        rows.shape[1],
        clusters,
        niter=ITERATIONS,
        nredo=STARTS,
        seed=SEED,
        spherical=True,
        min_points_per_centroid=1,  # a probe is small; faiss would warn
        max_points_per_centroid=len(rows),  # and use all of it
    )
    kmeans.train(rows)
    return torch.from_numpy(kmeans.index.search(rows, 1)[1][:, 0])


def match_clusters(confusion: Tensor) -> Tensor:
    """The one-to-one matching of clusters to classes with the largest common area.

    Args:
        confusion: (K, P), class by cluster.

    Returns:
        (K, K), the columns in the order of the classes; zero for a class without a cluster.
    """
    classes, clusters = linear_sum_assignment(confusion.numpy(), maximize=True)
    matched = torch.zeros(len(confusion), len(confusion), dtype=confusion.dtype)
    matched[:, classes] = confusion[:, clusters]
    return matched


def cluster_miou(features: Tensor, shares: Tensor) -> float:
    """Mean IoU in percent of K clusters after matching.

    Args:
        features: (n, C); shares: (n, K) class shares.
    """
    num_classes = shares.shape[1]
    assignment = cluster_cells(features, num_classes)
    return mean_iou(match_clusters(confusion_matrix(assignment, shares, num_classes)))
