"""Projection heads of MoCo and DenseCL.

"Improved Baselines with Momentum Contrastive Learning" (https://arxiv.org/abs/2003.04297) and "Dense
Contrastive Learning" (https://arxiv.org/abs/2011.09157), section 3.2; authors' code WXinlong/DenseCL,
openselfsup/models/necks.py:174-199 and 357-397. Letters: N images, C backbone channels, D embedding,
S = H * W positions, row-major.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from densessl.errors import ConfigError

INITS = ("openselfsup", "default")


class GlobalProjectionHead(nn.Module):
    """Mean over positions, then Linear - ReLU - Linear (MoCo v2), or one Linear (MoCo v1).

    Args:
        in_channels: C.
        hidden_channels: width of the hidden layer; None for one Linear.
        out_channels: D.
        init: "openselfsup": Linear weights normal with variance 2 / fan_in, biases 0 (necks.py:10-24 with
            init_linear "kaiming", as DenseCL trains); "default": PyTorch's, as facebookresearch/moco and
            mmselfsup train. The two start from different initial losses.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        hidden_channels: int | None = 2048,
        out_channels: int = 128,
        init: str = "openselfsup",
    ):
        super().__init__()
        if hidden_channels is None:
            layers = [nn.Linear(in_channels, out_channels)]
        else:
            layers = [
                nn.Linear(in_channels, hidden_channels),
                nn.ReLU(inplace=True),
                nn.Linear(hidden_channels, out_channels),
            ]
        self.mlp = nn.Sequential(*layers)
        self.in_channels = in_channels
        self.out_channels = out_channels
        init_head(self, init)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, C, H, W) backbone map -> (N, D), not normalised."""
        return self.mlp(feature.mean((2, 3)))


class DenseProjectionHead(nn.Module):
    """1x1 convolution - ReLU - 1x1 convolution at every position of the map, or of a grid pooled from it.

    Args:
        in_channels: C.
        hidden_channels: width of the hidden layer.
        out_channels: D.
        num_grid: g, pools the map to g x g by adaptive average pooling first; None keeps it. The authors
            pool the input of this head only and match on the unpooled map, which works for g = H alone;
            here `forward` returns the pooled map as well, so that any g does.
        init: as `GlobalProjectionHead`. "openselfsup" leaves convolutions at PyTorch's default, as the
            authors do, so the two branches start with different weight scales.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        hidden_channels: int = 2048,
        out_channels: int = 128,
        num_grid: int | None = None,
        init: str = "openselfsup",
    ):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(in_channels, hidden_channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_channels, out_channels, 1),
        )
        if num_grid is not None and num_grid < 1:
            raise ConfigError(f"num_grid={num_grid}: the side of the grid is at least 1; null keeps the map.")
        self.num_grid = num_grid
        self.in_channels = in_channels
        self.out_channels = out_channels
        init_head(self, init)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) map -> (N, D, S) outputs, not normalised, and the (N, C, S) map under them."""
        if self.num_grid is not None:
            feature = F.adaptive_avg_pool2d(feature, self.num_grid)
        return self.mlp(feature).flatten(2), feature.flatten(2)


def init_head(head: nn.Module, init: str) -> None:
    """Applies a named initialisation to the linear layers of `head`.

    Raises:
        ConfigError: an unknown name.
    """
    if init not in INITS:
        raise ConfigError(f"projection head: init={init!r}; use one of {', '.join(INITS)}.")
    if init == "openselfsup":
        for layer in head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
