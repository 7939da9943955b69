"""What methods on two augmented views of an image share: input, normalisation, features at evaluation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList
from detectron2.utils import comm
from torch import Tensor, nn

from densessl.errors import ConfigError
from densessl.layers.batch_shuffle import uses_plain_batch_norm
from densessl.layers.photometric import apply_photometric

Batch = dict[str, Any] | list[dict[str, Any]]


class View(NamedTuple):
    """One augmented version of each image of a batch, on the model's device.

    Attributes:
        images: (N, 3, H, W) uint8 or float RGB in [0, 255].
        photometric: (N, P) parameters of the colour work still to be done, or None when it is done.
    """

    images: Tensor
    photometric: Tensor | None


class TwoViewModel(nn.Module):
    """Base of the methods that compare two views; `backbone` is what transfers.

    Args:
        backbone: trunk; one of its outputs is used.
        in_feature: name of that output, e.g. "res5".
        pixel_mean, pixel_std: per channel, RGB in [0, 255].

    Raises:
        ConfigError: the backbone has no output `in_feature`.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        in_feature: str,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ):
        super().__init__()
        shapes = backbone.output_shape()
        if in_feature not in shapes:
            raise ConfigError(
                f"model.in_feature={in_feature!r}: the backbone returns {', '.join(shapes)}; "
                "use one of these, or add it to model.backbone.out_features."
            )
        self.backbone = backbone
        self.in_feature = in_feature
        self.feature_channels = shapes[in_feature].channels
        self.feature_stride = shapes[in_feature].stride
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def check_head(self, name: str, head: nn.Module) -> None:
        """Raises ConfigError unless `head`, called `name` in the config, fits the map of `in_feature`."""
        expected = getattr(head, "in_channels", self.feature_channels)
        if expected != self.feature_channels:
            raise ConfigError(
                f"model.{name}.in_channels={expected}, but the backbone's {self.in_feature} has "
                f"{self.feature_channels} channels: set it to {self.feature_channels}."
            )

    def collect_views(self, batch: Batch) -> tuple[View, View]:
        """Brings both views to the device.

        Args:
            batch: {"views": [(N, 3, H, W), (N, 3, H, W)], ...} as the loader collates, or one such dict per
                image with (3, H, W) views of equal size. "photometric" is optional: [(N, P), (N, P)].

        Raises:
            ConfigError: there are not two views, or one image where batch norm needs several.
        """
        stacked = {}
        for name in ("views", "photometric"):
            if isinstance(batch, dict):
                stacked[name] = batch.get(name)
            elif batch and name in batch[0]:
                stacked[name] = [torch.stack(list(items)) for items in zip(*(image[name] for image in batch))]
            else:
                stacked[name] = None
        views = stacked["views"]
        if views is None or len(views) != 2:
            raise ConfigError(
                f"{type(self).__name__} takes two views per image, and the batch has "
                f"{0 if views is None else len(views)}; use a two-view mapper in dataloader.train.mapper."
            )
        images = [self._to_device(view) for view in views]
        if len(images[0]) == 1 and uses_plain_batch_norm(self, alone=comm.get_world_size() == 1):
            raise ConfigError(
                "A micro-batch of one process holds one image, which has no batch statistics: raise "
                "dataloader.train.total_batch_size, lower train.accumulate, or choose another norm."
            )
        if stacked["photometric"] is None:
            return View(images[0], None), View(images[1], None)
        parameters = [self._to_device(values) for values in stacked["photometric"]]
        return View(images[0], parameters[0]), View(images[1], parameters[1])

    def normalize(self, view: View) -> Tensor:
        """Colour work that is still to be done, then (x - mean) / std: (N, 3, H, W) float32."""
        images = view.images.float()
        if view.photometric is not None:
            images = apply_photometric(images, view.photometric)
        return (images - self.pixel_mean) / self.pixel_std

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Returns the trunk's map of each image.

        Args:
            batched_inputs: each {"image": (3, H, W) RGB in [0, 255]}; sizes may differ.

        Returns:
            For each image {"features": (C, ceil(H / stride), ceil(W / stride))}; padding is cut off.
        """
        images = [self._to_device(item["image"]).float() for item in batched_inputs]
        images = ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        maps = self.backbone(images.tensor)[self.in_feature]
        stride = self.feature_stride
        return [
            {"features": feature[:, : -(-height // stride), : -(-width // stride)]}
            for feature, (height, width) in zip(maps, images.image_sizes, strict=True)
        ]

    def _to_device(self, x: Tensor) -> Tensor:
        return x.to(self.device, non_blocking=True)
