"""Linear classifiers on a frozen trunk: of its last map, or of five of its stages at once.

"Momentum Contrast for Unsupervised Visual Representation Learning" (https://arxiv.org/abs/1911.05722),
section 4.1, facebookresearch/moco main_lincls.py; facebookresearch/simsiam main_lincls.py; the multi-layer
probe is WXinlong/DenseCL openselfsup/models/heads/multi_cls_head.py with
configs/benchmarks/linear_classification/imagenet/r50_multihead.py. Letters: N images, K classes.
"""

from collections.abc import Sequence

import torch
from detectron2.layers import get_norm
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import Tensor, nn

from densessl.errors import ConfigError
from densessl.layers.stage_pooling import POOLED_SIDES, POOLINGS, STAGES, pool_stage, stage_maps
from densessl.modeling.meta_arch.image_classifier import (
    Batch,
    ImageClassifier,
    PooledFeatures,
    classification_loss,
    collect_labels,
    linear_head,
)
from densessl.utils.events import log_metric


@META_ARCH_REGISTRY.register()
class LinearClassifier(ImageClassifier):
    """A linear layer on the mean of a frozen trunk's map; arguments of `ImageClassifier`."""

    frozen_trunk = True


@META_ARCH_REGISTRY.register()
class MultiStageClassifier(PooledFeatures):
    """One linear layer per stage of a frozen ResNet, trained side by side.

    Each stage is pooled to about 9,000 numbers (densessl/layers/stage_pooling.py), standardised by a batch
    norm without weights, and classified. The losses do not interact, since nothing below is trained.

    Args:
        backbone: detectron2 ResNet up to res5.
        num_classes: K.
        stages: some of conv1, res2, res3, res4, res5.
        pooling: "specified" (224-pixel images) or "adaptive".
        norm: detectron2's name of the normalisation; "SyncBN" in the published config.
        pixel_mean, pixel_std: per channel, RGB in [0, 255].

    Raises:
        ConfigError: another backbone, an unknown stage or pooling.
    """

    def __init__(
        self,
        *,
        backbone: ResNet,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        stages: Sequence[str] = STAGES,
        pooling: str = "specified",
        norm: str = "SyncBN",
    ):
        if not isinstance(backbone, ResNet) or not isinstance(backbone.stem, BasicStem):
            raise ConfigError("model.backbone: the stages are those of build_resnet; use it.")
        if not stages or any(stage not in STAGES for stage in stages):
            raise ConfigError(f"model.stages={list(stages)}: use some of {', '.join(STAGES)}.")
        if pooling not in POOLINGS:
            raise ConfigError(f"model.pooling={pooling!r}: use one of {', '.join(POOLINGS)}.")
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.num_classes, self.stages, self.pooling = num_classes, tuple(stages), pooling
        channels = {"conv1": backbone.stem.out_channels}
        channels |= {n: s[-1].out_channels for n, s in zip(backbone.stage_names, backbone.stages)}
        self.norms = nn.ModuleDict({stage: _plain_norm(norm, channels[stage]) for stage in self.stages})
        self.heads = nn.ModuleDict(
            {s: linear_head(channels[s] * POOLED_SIDES[s] ** 2, num_classes) for s in self.stages}
        )

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[dict[str, dict[str, Tensor]]]:
        """Training: {"loss_ce_<stage>": scalar}; evaluation: for each image {"scores": {stage: (K,)}}."""
        images = self.collect_images(batch)
        with torch.no_grad():
            maps = stage_maps(self.backbone, images, self.stages)
            pooled = {stage: pool_stage(x, stage, self.pooling) for stage, x in maps.items()}
        logits = {s: self.heads[s](self.norms[s](x).flatten(1)) for s, x in pooled.items()}  # (N, K) each
        if not self.training:
            return [
                {"scores": dict(zip(self.stages, scores))}
                for scores in zip(*(logits[stage].float() for stage in self.stages))
            ]
        losses, labels = {}, collect_labels(batch, self.device)
        for stage, values in logits.items():
            losses[f"loss_ce_{stage}"], metrics = classification_loss(values, labels)
            log_metric(f"classifier/top1_{stage}", metrics["top1"])
        return losses


def _plain_norm(norm: str, channels: int) -> nn.Module:
    """A normalisation whose weight 1 and bias 0 stay (the published config has `affine=False`)."""
    return get_norm(norm, channels).requires_grad_(False)
