"""Projector and predictor of SimSiam.

"Exploring Simple Siamese Representation Learning" (https://arxiv.org/abs/2011.10566), section 3; authors'
code facebookresearch/simsiam, simsiam/builder.py:15-61. Letters: N images, C backbone channels, D embedding.
"""

from torch import Tensor, nn

from densessl.errors import ConfigError

_BATCH_NORMS = {"BN": nn.BatchNorm1d, "SyncBN": nn.SyncBatchNorm}


def _batch_norm(norm: str, channels: int, affine: bool = True) -> nn.Module:
    if norm not in _BATCH_NORMS:
        raise ConfigError(f"SimSiam's heads: norm={norm!r}; use one of {', '.join(_BATCH_NORMS)}.")
    return _BATCH_NORMS[norm](channels, affine=affine)


class SimSiamProjector(nn.Module):
    """Mean over positions, then three Linear layers, each with batch norm; the last norm has no scale.

    The bias of the last Linear is frozen: the norm behind it removes it (builder.py:32).

    Args:
        in_channels: C, also the width of the hidden layers, as in the authors' code.
        out_channels: D.
        norm: "BN" or "SyncBN".
    """

    def __init__(self, *, in_channels: int, out_channels: int = 2048, norm: str = "BN"):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, in_channels, bias=False),
            _batch_norm(norm, in_channels),
            nn.ReLU(inplace=True),
            nn.Linear(in_channels, in_channels, bias=False),
            _batch_norm(norm, in_channels),
            nn.ReLU(inplace=True),
            nn.Linear(in_channels, out_channels),
            _batch_norm(norm, out_channels, affine=False),
        )
        self.mlp[6].bias.requires_grad_(False)
        self.in_channels = in_channels
        self.out_channels = out_channels

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) backbone map -> (N, D)."""
        return self.mlp(feature.mean((2, 3)))


class SimSiamPredictor(nn.Module):
    """Linear - batch norm - ReLU - Linear, a bottleneck.

    Args:
        channels: D.
        hidden_channels: width of the hidden layer, a quarter of D as published.
        norm: "BN" or "SyncBN".
    """

    def __init__(self, *, channels: int = 2048, hidden_channels: int = 512, norm: str = "BN"):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden_channels, bias=False),
            _batch_norm(norm, hidden_channels),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_channels, channels),
        )

    def forward(self, projection: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        return self.mlp(projection)
