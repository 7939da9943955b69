"""Heads of SOLOv2: categories and mask kernels on grids, and one mask feature map for all instances.

"SOLOv2: Dynamic and Fast Instance Segmentation" (https://arxiv.org/abs/2003.10152); authors'
code aim-uofa/AdelaiDet, adet/modeling/solov2/solov2.py (SOLOv2InsHead, SOLOv2MaskHead). Letters: N
images, D channels of the pyramid, C classes, E length of a mask kernel, S cells per side of a grid.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn


class SOLOv2InstanceHead(nn.Module):
    """For every cell of five grids: class scores, and the 1x1 kernel of the instance whose centre is there.

    Both towers are shared by all levels. The kernel tower sees two channels of coordinates (CoordConv,
    https://arxiv.org/abs/1807.03247), the category tower does not.

    Args:
        in_channels: D.
        num_classes: C.
        num_grids: S of each level, large maps first.
        num_convs: 3x3 convolutions in each tower, each with norm and ReLU.
        channels: their width; a multiple of 32 for "GN".
        kernel_channels: E.
        norm: detectron2's name of the normalisation, "GN" as published.
        prior_prob: category score of every cell at the start.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        num_grids: Sequence[int] = (40, 36, 24, 16, 12),
        num_convs: int = 4,
        channels: int = 512,
        kernel_channels: int = 256,
        norm: str = "GN",
        prior_prob: float = 0.01,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.num_grids = tuple(num_grids)
        widths = [channels] * num_convs
        self.category_tower = _tower([in_channels, *widths], norm)
        self.kernel_tower = _tower([in_channels + 2, *widths], norm)
        self.category_pred = Conv2d(channels, num_classes, kernel_size=3, padding=1)
        self.kernel_pred = Conv2d(channels, kernel_channels, kernel_size=3, padding=1)
        _init_convolutions(self)
        # focal loss starts from rare positives, as in RetinaNet (https://arxiv.org/abs/1708.02002)
        nn.init.constant_(self.category_pred.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps of `split_levels` -> per level (N, C, S, S) category logits and (N, E, S, S) kernels."""
        logits, kernels = [], []
        for feature, size in zip(features, self.num_grids, strict=True):
            # coordinates of the map, resampled with it
            grid = F.interpolate(with_coordinates(feature), size=(size, size), mode="bilinear")
            kernels.append(self.kernel_pred(self.kernel_tower(grid)))
            logits.append(self.category_pred(self.category_tower(grid[:, :-2])))
        return logits, kernels


class SOLOv2MaskHead(nn.Module):
    """Adds the pyramid's levels up at the size of the largest, then 1x1 convolution, norm and ReLU.

    Level i passes i times through a 3x3 convolution with norm and ReLU and upsampling by two, level 0 once
    through the convolution alone. The last level sees coordinates.

    Args:
        in_channels: D.
        num_levels: maps to add, each half as large as the one before.
        channels: width inside.
        out_channels: E.
        norm: as in the instance head. Without one the authors' code still has GN in the last layer; here
            "" removes that too.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int = 4,
        channels: int = 128,
        out_channels: int = 256,
        norm: str = "GN",
    ):
        super().__init__()
        self.levels = nn.ModuleList()
        for level in range(num_levels):
            first = in_channels + 2 if level == num_levels - 1 else in_channels
            layers = _tower([first, *[channels] * max(1, level)], norm)
            for step in reversed(range(level)):
                layers.insert(step + 1, nn.Upsample(scale_factor=2, mode="bilinear"))
            self.levels.append(layers)
        self.pred = _conv(channels, out_channels, norm, kernel_size=1)
        _init_convolutions(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps, the largest (N, D, H, W) first -> (N, E, H, W), not negative."""
        features = [*features[:-1], with_coordinates(features[-1])]
        levels = [level(feature) for level, feature in zip(self.levels, features, strict=True)]
        return self.pred(sum(levels[1:], start=levels[0]))


def split_levels(features: Sequence[Tensor]) -> list[Tensor]:
    """The pyramid as the instance head takes it: the first map halved, the last as large as the one before.

    Strides 4, 8, 16, 32, 64 become 8, 8, 16, 32, 32 (`split_feats` of the authors).

    Args:
        features: at least three (N, D, h, w), large maps first.
    """
    first = F.interpolate(features[0], scale_factor=0.5, mode="bilinear")
    last = F.interpolate(features[-1], size=features[-2].shape[-2:], mode="bilinear")
    return [first, *features[1:-1], last]


def with_coordinates(feature: Tensor) -> Tensor:
    """(N, D, H, W) -> (N, D + 2, H, W): x, then y, -1 at the first pixel and 1 at the last."""
    height, width = feature.shape[-2:]
    options = {"device": feature.device, "dtype": feature.dtype}
    x = torch.linspace(-1, 1, width, **options).expand(feature.shape[0], 1, height, width)
    y = torch.linspace(-1, 1, height, **options)[:, None].expand(feature.shape[0], 1, height, width)
    return torch.cat([feature, x, y], dim=1)


def _tower(channels: Sequence[int], norm: str) -> nn.Sequential:
    """3x3 convolutions from channels[0] to channels[1], from that to channels[2] ..."""
    pairs = zip(channels[:-1], channels[1:], strict=True)
    return nn.Sequential(*(_conv(before, after, norm, kernel_size=3) for before, after in pairs))


def _conv(in_channels: int, out_channels: int, norm: str, kernel_size: int) -> Conv2d:
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size=kernel_size,
        padding=kernel_size // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )


def _init_convolutions(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
