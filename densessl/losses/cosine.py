"""Negative cosine similarity and the numbers that show a collapse.

"Exploring Simple Siamese Representation Learning" (https://arxiv.org/abs/2011.10566), Eq. (1)-(4) and
section 4.1; authors' code facebookresearch/simsiam, main_simsiam.py:294-295. Letters: N images, D embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from densessl.losses.precision import at_least_float32


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """-mean_i cos(prediction_i, target_i), in [-1, 1]; `target` gets no gradient (stop-gradient, Eq. (3)).

    negative_cosine of (3, 4) and (1, 0) is -0.6.

    Args:
        prediction: (N, D), any length.
        target: (N, D), any length.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        prediction, target = at_least_float32(prediction), at_least_float32(target.detach())
        return -(F.normalize(prediction, dim=1) * F.normalize(target, dim=1)).sum(1).mean()


@torch.no_grad()
def feature_spread(features: Tensor) -> dict[str, Tensor]:
    """How far a batch of embeddings is from collapse.

    Args:
        features: (N, D), any length; normalised here.

    Returns:
        "std": the mean over channels of the standard deviation of the unit vectors, times sqrt(D): 1 for
        vectors spread evenly over the sphere, 0 for a constant output (the paper's Figure 2, middle).
        "effective_rank": (sum of eigenvalues)^2 / (sum of their squares) of the covariance, the participation
        ratio, between 1 and min(N - 1, D); from the (N, N) Gram matrix, without an eigenvalue problem.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=1)
        centred = unit - unit.mean(0)
        std = centred.square().mean(0).sqrt().mean() * features.shape[1] ** 0.5
        trace = centred.square().sum()
        gram = centred @ centred.t()
        rank = trace.square() / gram.square().sum().clamp(min=torch.finfo(gram.dtype).tiny)
    return {"std": std, "effective_rank": rank}
