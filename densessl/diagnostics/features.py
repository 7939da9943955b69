"""Cell features of a trunk, taken in the middle of training without leaving a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from densessl.errors import ConfigError

BATCH = 16  # images at once


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Puts every part into evaluation mode, and each back into the mode that it had itself."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class TrunkFeatures:
    """Square images in, feature maps of `backbone` out, in float32.

    Args:
        backbone: d2 backbone.
        feature: which of its outputs.
        pixel_mean, pixel_std: three numbers each in [0, 255], in the order of `input_format`.
        input_format: what the backbone takes, "RGB" or "BGR".

    Raises:
        ConfigError: the backbone has no such output.
    """

    def __init__(
        self,
        backbone: nn.Module,
        feature: str,
        pixel_mean: Tensor,
        pixel_std: Tensor,
        input_format: str = "RGB",
    ):
        shapes = backbone.output_shape()
        if feature not in shapes:
            raise ConfigError(
                f"diagnostics: feature={feature!r}, and the backbone returns {', '.join(shapes)}; use one of "
                "these, or add it to model.backbone.out_features."
            )
        self.backbone, self.feature = backbone, feature
        self.stride = shapes[feature].stride
        self.input_format = input_format
        self.mean, self.std = pixel_mean.reshape(3, 1, 1), pixel_std.reshape(3, 1, 1)

    @classmethod
    def of_model(cls, model: nn.Module, feature: str | None = None) -> TrunkFeatures:
        """The trunk of a meta-architecture.

        Args:
            model: has `backbone`, `pixel_mean`, `pixel_std` and maybe `in_feature`.
            feature: None for `model.in_feature`, or the backbone's last output.

        Raises:
            ConfigError: the model has no trunk of that form.
        """
        missing = [name for name in ("backbone", "pixel_mean", "pixel_std") if not hasattr(model, name)]
        if missing or not hasattr(model.backbone, "output_shape"):
            lacks = ", ".join(missing) or "backbone.output_shape"
            raise ConfigError(
                f"diagnostics: {type(model).__name__} has no {lacks}; they look at the features of a model's "
                "`backbone` (a detectron2 Backbone). Take DiagnosticsHook out of train.hooks."
            )
        # d2 lists the outputs from fine to coarse
        feature = feature or getattr(model, "in_feature", None) or list(model.backbone.output_shape())[-1]
        # our own models take RGB and say nothing; detectron2's detectors say what they take
        order = getattr(model, "input_format", None) or "RGB"
        return cls(model.backbone, feature, model.pixel_mean, model.pixel_std, order)

    def check_size(self, name: str, size: int) -> None:
        """Raises ConfigError unless images of `size` pixels are a whole number of cells, at least two."""
        if size % self.stride or size < 2 * self.stride:
            raise ConfigError(
                f"diagnostics: {name}={size} must be a multiple of the stride {self.stride} of "
                f"{self.feature}, and at least {2 * self.stride}."
            )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) uint8 RGB -> (N, C, h, w) float32 on the CPU."""
        device, maps = self.mean.device, []
        with evaluation_mode(self.backbone), torch.autocast(device.type, enabled=False):
            for part in images.split(BATCH):
                part = part.flip(1) if self.input_format == "BGR" else part
                pixels = (part.to(device).float() - self.mean) / self.std
                maps.append(self.backbone(pixels)[self.feature].float().cpu().contiguous())
        return torch.cat(maps)
