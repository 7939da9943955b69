"""Unsupervised segmentation: k-means over cells, clusters matched to classes.

The protocol of PiCIE ("PiCIE: Unsupervised Semantic Segmentation Using Invariance and Equivariance in
Clustering", https://arxiv.org/abs/2103.17070, section 4.1): as many clusters as classes, one matching by the
Hungarian method on the confusion matrix of all images. n cells, C channels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from densessl.clustering.assignment import hungarian_match, merge_clusters
from densessl.clustering.spherical import cluster_cells
from densessl.diagnostics.segmentation import confusion_matrix, mean_iou


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
