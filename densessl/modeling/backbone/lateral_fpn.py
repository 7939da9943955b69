"""Top-down pyramid of lateral 1x1 convolutions alone, PiCIE's decoder.

"PiCIE" (https://arxiv.org/abs/2103.17070), section 4.1; authors' code janghyuncho/PiCIE,
modules/fpn.py:19-45.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from torch import Tensor

from densessl.errors import ConfigError


class LateralFPN(FPN):
    """p = lateral5(res5); p = up(p) + lateral4(res4); ... ; the last p is the output, at the finest stride.

    Unlike detectron2's FPN, whose names it keeps: bilinear sampling to the size of the lateral map
    (half-pixel centres) where that takes the nearest cell, no 3x3 convolutions after the sums, one output.
    The laterals have biases, no norm, and PyTorch's initial values, as in the authors' code.

    Args:
        bottom_up: trunk.
        in_features: its outputs, finest first, e.g. res2 .. res5.
        out_channels: of the output; 128 for ResNet-18, 256 for ResNet-50 in the authors' code.

    Raises:
        ConfigError: the trunk has no such outputs.
    """

    def __init__(
        self,
        *,
        bottom_up: Backbone,
        in_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        out_channels: int = 128,
    ) -> None:
        shapes = bottom_up.output_shape()
        missing = [name for name in in_features if name not in shapes]
        if missing or not in_features:
            raise ConfigError(
                f"LateralFPN: in_features={list(in_features)}, and the trunk returns {', '.join(shapes)}; "
                "name some of these, or add to model.backbone.bottom_up.out_features."
            )
        super().__init__(bottom_up, list(in_features), out_channels)
        for name in [name for name, _ in self.named_children() if name.startswith("fpn_output")]:
            delattr(self, name)
        del self.output_convs
        for lateral in self.lateral_convs:
            lateral.reset_parameters()
        stride = shapes[self.in_features[0]].stride
        self._out_feature = f"p{stride.bit_length() - 1}"
        self._shape = ShapeSpec(channels=out_channels, stride=stride)

    @property
    def size_divisibility(self) -> int:
        return 0  # images of any size: sums are made at the size of the lateral map

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {self._out_feature: self._shape}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"p2": (N, out_channels, H / 4, W / 4)}, any size; strides as in the trunk."""
        return {self._out_feature: self.decode(self.bottom_up(images))}

    def decode(self, features: dict[str, Tensor]) -> Tensor:
        """The sums alone: maps of the trunk by name -> (N, out_channels, h, w)."""
        merged = None
        for name, lateral in zip(reversed(self.in_features), self.lateral_convs):
            own = lateral(features[name])
            if merged is not None:
                own = own + F.interpolate(merged, own.shape[-2:], mode="bilinear", align_corners=False)
            merged = own
        return merged
