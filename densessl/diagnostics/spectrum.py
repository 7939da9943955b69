"""Collapse seen from the features alone: effective rank, uniformity, alignment.

n vectors of C channels. Vectors are scaled to unit length first, as the losses compare them by cosine.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the singular values: 1 for copies of one vector, r for r equal directions.

    Roy and Vetterli, "The effective rank" (EUSIPCO 2007); RankMe (https://arxiv.org/abs/2210.02885), Eq. (1),
    without its constant 1e-7. Not centred, as there. From the eigenvalues of the smaller Gram matrix in
    double precision.

    Args:
        features: (n, C).

    Returns:
        in [1, min(n, C)].
    """
    unit = F.normalize(features.double(), dim=1)
    gram = unit @ unit.t() if len(unit) <= unit.shape[1] else unit.t() @ unit
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())


def uniformity(features: Tensor, scale: float = 2.0) -> float:
    """log of the mean of exp(-t |x - y|^2) over all pairs of different vectors; lower is more uniform.

    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere" (https://arxiv.org/abs/2005.10242), Eq. (2) and its `lunif`, t = 2.

    Args:
        features: (n, C), n > 1.

    Returns:
        in [-4 t, 0]: 0 when all are equal, about -2 t when all are orthogonal.
    """
    return float(torch.pdist(F.normalize(features.double(), dim=1)).square().mul(-scale).exp().mean().log())


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of the two views of an image, in [0, 4]; Eq. (1) of the same paper, alpha = 2.

    Args:
        first, second: (n, C), row i of both from one image.
    """
    first, second = F.normalize(first.double(), dim=1), F.normalize(second.double(), dim=1)
    return float((first - second).square().sum(1).mean())
