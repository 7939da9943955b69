"""Any timm model that offers feature maps, as a detectron2 backbone."""

from collections.abc import Sequence

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor

from densessl.errors import ConfigError


class TimmBackbone(Backbone):
    """Wraps `timm.create_model(name, features_only=True)`.

    Args:
        name: timm's name, e.g. "resnet18", "convnext_tiny", "swin_tiny_patch4_window7_224".
        out_indices: feature maps to return, counted as timm counts them; None for all. Map i is called
            "stage<i>" in the output.
        model_args: further arguments of timm's constructor, e.g. {"img_size": 224}.

    Raises:
        ConfigError: timm has no such model with feature maps.
    """

    def __init__(self, name: str, out_indices: Sequence[int] | None = None, model_args: dict | None = None):
        super().__init__()
        import timm  # slow to import, and most configs do without

        arguments = dict(model_args or {})
        if out_indices is not None:
            arguments["out_indices"] = tuple(out_indices)
        try:
            self.body = timm.create_model(name, features_only=True, pretrained=False, **arguments)
        except (RuntimeError, AttributeError, AssertionError, IndexError, TypeError) as error:
            raise ConfigError(
                f"TimmBackbone: timm {timm.__version__} cannot build {name!r} with feature maps "
                f"out_indices={out_indices}: {error}"
            ) from error
        info = self.body.feature_info
        indices = out_indices if out_indices is not None else range(len(info.channels()))
        self._out_features = [f"stage{index}" for index in indices]
        self._out_feature_channels = dict(zip(self._out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(self._out_features, info.reduction(), strict=True))
        self._channels_last = str(getattr(self.body, "output_fmt", "NCHW")).upper().endswith("NHWC")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"stage<i>": (N, C_i, H_i, W_i)}."""
        maps = self.body(x)
        if self._channels_last:
            maps = [feature.permute(0, 3, 1, 2) for feature in maps]
        return dict(zip(self._out_features, maps, strict=True))

    @property
    def size_divisibility(self) -> int:
        return max(self._out_feature_strides.values())

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
