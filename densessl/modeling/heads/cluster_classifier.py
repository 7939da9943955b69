"""MDC's trained classifier of clusters.

janghyuncho/PiCIE, train_mdc.py:193-205. Letters: N images, C channels, K clusters.
"""

import torch
from torch import Tensor, nn


class ClusterClassifier(nn.Module):
    """1x1 convolution with bias that starts anew whenever the clusters change.

    Args:
        in_channels: C.
        num_clusters: K.
        std: standard deviation of the weights; the bias is 0.
    """

    def __init__(self, *, in_channels: int, num_clusters: int, std: float = 0.01) -> None:
        super().__init__()
        self.predictor = nn.Conv2d(in_channels, num_clusters, 1)
        self.std = std
        self.reset(seed=0)

    @torch.no_grad()
    def reset(self, seed: int) -> None:
        """Draws new weights, the same on all processes and devices for one seed."""
        generator = torch.Generator().manual_seed(seed)
        weight = torch.empty(self.predictor.weight.shape, device="cpu").normal_(
            0.0, self.std, generator=generator
        )
        self.predictor.weight.copy_(weight)
        self.predictor.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) of unit length -> (N, K, h, w) logits."""
        return self.predictor(features)
