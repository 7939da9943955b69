"""Image classification from one feature map: whole-network fine-tuning, and features without a head.

Semi-supervised protocol: a pretrained trunk and a linear layer, all trained on few labels
(WXinlong/DenseCL openselfsup/models/classification.py, heads/cls_head.py). Letters: N images, C channels of
the map, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from torch import Tensor, nn

from densessl.errors import ConfigError
from densessl.losses.precision import at_least_float32
from densessl.utils.events import log_metric

Batch = dict[str, Any] | list[dict[str, Any]]


@META_ARCH_REGISTRY.register()
class PooledFeatures(nn.Module):
    """A trunk and the mean of one of its maps over positions, for nearest neighbours; run with `--eval-only`.

    Every tensor is the trunk's, so a pretraining checkpoint leaves nothing open. Here and in
    `LinearClassifier` the trunk is frozen: no gradient, and evaluation mode also while the rest trains, since
        batch norm in training
    mode would revise its running statistics (moco main_lincls.py, `train`).

    Args:
        backbone: trunk.
        in_feature: output of the backbone to use.
        pixel_mean, pixel_std: per channel, RGB in [0, 255].

    Raises:
        ConfigError: the backbone has no output `in_feature`.
    """

    frozen_trunk = True

    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_feature: str = "res5",
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
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)
        if self.frozen_trunk:
            self.backbone.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def train(self, mode: bool = True) -> "PooledFeatures":
        super().train(mode)
        if self.frozen_trunk:
            self.backbone.eval()
        return self

    def forward(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Returns {"features": (C,)} for each image; see `collect_images` for the input."""
        return [{"features": feature} for feature in self.pooled(self.collect_images(batch))]

    def collect_images(self, batch: Batch) -> Tensor:
        """Normalised images (N, 3, H, W) on the model's device.

        Args:
            batch: {"image": (N, 3, H, W), ...} as `collate_labelled` makes it, or one dict per image with
                (3, H, W) images of equal size; RGB in [0, 255].
        """
        images = batch["image"] if isinstance(batch, dict) else torch.stack([item["image"] for item in batch])
        images = images.to(self.device, non_blocking=True).float()
        return (images - self.pixel_mean) / self.pixel_std

    def pooled(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) normalised -> (N, C): global average pooling."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_trunk):
            return self.backbone(images)[self.in_feature].mean((2, 3))


@META_ARCH_REGISTRY.register()
class ImageClassifier(PooledFeatures):
    """Trunk, global average pooling, linear layer; all parameters are trained.

    Args:
        num_classes: K.
        backbone, in_feature, pixel_mean, pixel_std: see `PooledFeatures`.
    """

    frozen_trunk = False

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_feature: str = "res5",
    ):
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std, in_feature=in_feature)
        self.num_classes = num_classes
        self.head = linear_head(self.feature_channels, num_classes)

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Training: {"loss_ce": scalar}; evaluation: for each image {"scores": (K,)}, logits.

        Args:
            batch: see `collect_images`; in training also "label", (N,) int64 or an int per image.
        """
        logits = self.head(self.pooled(self.collect_images(batch)))  # (N, K)
        if not self.training:
            return [{"scores": scores} for scores in logits.float()]
        loss, metrics = classification_loss(logits, collect_labels(batch, self.device))
        for name, value in metrics.items():
            log_metric(f"classifier/{name}", value)
        return {"loss_ce": loss}


def linear_head(channels: int, num_classes: int) -> nn.Linear:
    """A linear layer with weights of standard deviation 0.01 and biases 0 (moco main_lincls.py)."""
    head = nn.Linear(channels, num_classes)
    nn.init.normal_(head.weight, mean=0.0, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def collect_labels(batch: Batch, device: torch.device) -> Tensor:
    """(N,) int64 class numbers of a batch in either form."""
    labels = batch["label"] if isinstance(batch, dict) else torch.tensor([item["label"] for item in batch])
    return labels.to(device, non_blocking=True)


def classification_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cross entropy in float32, and {"top1", "top5"} in percent without gradient.

    Args:
        logits: (N, K).
        labels: (N,) int64 in [0, K).
    """
    logits = at_least_float32(logits)
    with torch.no_grad():
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]  # (N, 5)
        metrics = {
            "top1": 100.0 * hits[:, :1].sum(1).float().mean(),
            "top5": 100.0 * hits.sum(1).float().mean(),
        }
    return F.cross_entropy(logits, labels), metrics
