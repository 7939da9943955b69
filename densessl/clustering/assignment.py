"""Which class a cluster stands for: counts of pixels, Hungarian and majority matching, agreement measures.

"PiCIE: Unsupervised Semantic Segmentation using Invariance and Equivariance in Clustering"
(https://arxiv.org/abs/2103.17070), section 4.1; authors' code janghyuncho/PiCIE, utils.py:91-123 and
commons.py:186-241. Letters: G classes, K clusters. A confusion matrix is (G, K): pixels of class g that lie
in cluster k. A match is (K,) int64: the class of each cluster, -1 for none.

Matching is always on the matrix of all images together, never image by image.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from densessl.errors import ConfigError, DataError


def confusion_matrix(
    truth: Tensor, clusters: Tensor, num_classes: int, num_clusters: int, ignore_label: int = 255
) -> Tensor:
    """Counts pixels by class and cluster.

    Args:
        truth: integer, any shape: classes in [0, G) or `ignore_label`.
        clusters: integer, the same shape and device: clusters in [0, K); not looked at where ignored.

    Returns:
        (G, K) int64 on the same device.

    Raises:
        DataError: a class outside [0, G).
        ConfigError: a cluster outside [0, K), or other shapes.
    """
    if truth.shape != clusters.shape:
        raise ConfigError(f"labels {tuple(truth.shape)} and clusters {tuple(clusters.shape)} differ in shape")
    known = truth != ignore_label
    truth, clusters = truth[known].long(), clusters[known].long()
    if truth.numel() == 0:
        return torch.zeros(num_classes, num_clusters, dtype=torch.int64, device=truth.device)
    (low, high), (first, last) = (torch.stack(torch.aminmax(x)).tolist() for x in (truth, clusters))
    if low < 0 or high >= num_classes:
        raise DataError(
            f"labels from {low} to {high}, and there are {num_classes} classes; map them to 0 .. "
            f"{num_classes - 1}, and {ignore_label} for unlabelled."
        )
    if first < 0 or last >= num_clusters:
        raise ConfigError(f"clusters from {first} to {last}: set num_clusters={last + 1} in the evaluator.")
    cells = torch.bincount(truth * num_clusters + clusters, minlength=num_classes * num_clusters)
    return cells.view(num_classes, num_clusters)


def hungarian_match(confusion: np.ndarray) -> np.ndarray:
    """The one-to-one match with the most matched pixels.

    With more clusters than classes some clusters have no class; with fewer, some classes have no cluster.

    Args:
        confusion: (G, K) counts.
    """
    classes, clusters = linear_sum_assignment(confusion, maximize=True)
    match = np.full(confusion.shape[1], -1, np.int64)
    match[clusters] = classes
    return match


def majority_match(confusion: np.ndarray) -> np.ndarray:
    """Many clusters to one class: the class with the most pixels of a cluster, the lower number at equality.

    An empty cluster has no class. More clusters never give a lower accuracy, so that it can only be compared
    at equal K.

    Args:
        confusion: (G, K) counts.
    """
    return np.where(confusion.sum(0) > 0, confusion.argmax(0), -1)


def merge_clusters(confusion: np.ndarray, match: np.ndarray) -> np.ndarray:
    """Joins the clusters of each class.

    Args:
        confusion: (G, K) counts.
        match: (K,).

    Returns:
        (G, G + 1): the columns are classes, the last one is the pixels in clusters without a class.
    """
    num_classes = len(confusion)
    merged = np.zeros((num_classes, num_classes + 1), confusion.dtype)
    np.add.at(merged.T, np.where(match < 0, num_classes, match), confusion.T)
    return merged


def normalized_mutual_information(confusion: np.ndarray) -> float | None:
    """I(class; cluster) / mean of the two entropies, in [0, 1]; None without pixels.

    1 where one class lies in one cluster and there is nothing else: scikit-learn's convention.

    Args:
        confusion: (G, K) counts.
    """
    total = confusion.sum()
    if total == 0:
        return None
    joint = confusion / total
    classes, clusters = joint.sum(1), joint.sum(0)
    entropies = _entropy(classes) + _entropy(clusters)
    if entropies == 0.0:
        return 1.0
    return float(np.clip(2.0 * (entropies - _entropy(joint.ravel())) / entropies, 0.0, 1.0))


def adjusted_rand_index(confusion: np.ndarray) -> float | None:
    """Agreement over pairs of pixels, 0 expected by chance, 1 at best (Hubert and Arabie 1985); None without.

    In float64: the number of pairs in COCO, 1e19, is beyond int64.

    Args:
        confusion: (G, K) counts.
    """
    total = float(confusion.sum())
    if total == 0:
        return None
    together = _pairs(confusion).sum()
    classes, clusters = _pairs(confusion.sum(1)).sum(), _pairs(confusion.sum(0)).sum()
    # products of shares, which stay small
    expected = classes * (clusters / max(_pairs(np.float64(total)), 1.0))
    most = 0.5 * (classes + clusters)
    return 1.0 if most == expected else float((together - expected) / (most - expected))


def _entropy(share: np.ndarray) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def _pairs(counts: np.ndarray) -> np.ndarray:
    counts = np.asarray(counts, np.float64)
    return counts * (counts - 1.0) / 2.0
