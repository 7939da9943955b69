"""Cross entropy of dense features with the clusters that they were assigned to.

"PiCIE" (https://arxiv.org/abs/2103.17070), Eq. (1), (4)-(7); authors' code janghyuncho/PiCIE,
train_picie.py:98-158 and train_mdc.py:185-205. Letters: N images, C channels, h x w cells, K clusters.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from densessl.errors import ConfigError
from densessl.layers.rank_mean import rank_mean
from densessl.losses.precision import at_least_float32

IGNORE_LABEL = 255
BALANCES = ("frequency", "inverse", "none")


def balance_weights(counts: Tensor, balance: str = "frequency") -> Tensor:
    """Weight of each cluster in the loss.

    Args:
        counts: (K,) cells of each cluster over the data set.
        balance: "frequency": share of the cluster, which is what the authors' code computes and the published
            numbers come from (commons.py:181), although it favours large clusters; "inverse": mean count /
            count, which favours small ones, 0 for an empty one; "none": 1.

    Returns:
        (K,) float32.

    Raises:
        ConfigError: another word.
    """
    if balance not in BALANCES:
        raise ConfigError(f"model.balance={balance!r}; use one of {', '.join(BALANCES)}.")
    if balance == "none":
        return torch.ones_like(counts, dtype=torch.float32)
    counts = counts.double()
    if balance == "frequency":
        return (counts / counts.sum().clamp_min(1.0)).float()
    return torch.where(counts > 0, counts.mean() / counts.clamp_min(1.0), 0.0).float()


def cluster_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """sum_i w[y_i] (-log softmax(logits_i)[y_i]) / sum_i w[y_i], over the cells of all processes.

    Each process divides by the mean of the sums of weights over processes: after DistributedDataParallel has
    averaged, W processes give what one with the whole batch gives. 0 where no cell has a label.

    Args:
        logits: (N, K, h, w).
        labels: (N, h, w) integer in [0, K), 255 for cells that do not count.
        weight: (K,); None: 1.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, labels = at_least_float32(logits), labels.long()
        known = labels != IGNORE_LABEL
        share = known.to(logits.dtype)
        if weight is not None:
            share = share * weight.to(logits.dtype)[torch.where(known, labels, 0)]
        losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE_LABEL)
        total = rank_mean(share.sum())
        return (share * losses).sum() / total.clamp_min(torch.finfo(total.dtype).tiny)


def dot_logits(features: Tensor, centroids: Tensor) -> Tensor:
    """x . c: the frozen classifier whose weights are the centroids, without bias and temperature.

    Labels come from the distance instead; for centroids of unequal length the two disagree, as in the
    authors' code.

    Args:
        features: (N, C, h, w) of unit length.
        centroids: (K, C).

    Returns:
        (N, K, h, w).
    """
    return F.conv2d(features, centroids.to(features.dtype)[:, :, None, None])


class ClusterTarget(NamedTuple):
    """What clustering one view gives.

    Attributes:
        centroids: (K, C).
        labels: (N, h, w), of the batch.
        weight: (K,) or None.
    """

    centroids: Tensor
    labels: Tensor
    weight: Tensor | None


def within_across_losses(
    features: tuple[Tensor, Tensor], targets: tuple[ClusterTarget, ClusterTarget]
) -> tuple[Tensor, Tensor]:
    """Eq. (4)-(7): each view with its own clusters, and with those of the other view.

    Args:
        features: two (N, C, h, w) of unit length, aligned cell by cell.
        targets: of the two views.

    Returns:
        within = (L11 + L22) / 2 and across = (L12 + L21) / 2; PiCIE's loss is their mean.
    """
    loss = [
        [cluster_cross_entropy(dot_logits(x, t.centroids), t.labels, t.weight) for t in targets]
        for x in features
    ]
    return (loss[0][0] + loss[1][1]) / 2, (loss[0][1] + loss[1][0]) / 2
