"""Backbones of a run for pictures: with the weights of its checkpoint, and the same network untrained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from densessl.errors import CheckpointError, ConfigError
from densessl.visualization.runs import Run

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, 0-255, as every config
MARGIN = 2  # cells of mirrored surroundings


class FeatureExtractor:
    """Photograph in, feature map of a frozen backbone out.

    Args:
        backbone: d2 backbone in eval mode.
        feature: which of its outputs.
        pixel_mean, pixel_std: RGB, 0-255.
    """

    def __init__(
        self, backbone: nn.Module, feature: str, pixel_mean: Sequence[float], pixel_std: Sequence[float]
    ):
        self.backbone = backbone.eval().requires_grad_(False)
        self.mean = torch.tensor(list(pixel_mean)).view(3, 1, 1)
        self.std = torch.tensor(list(pixel_std)).view(3, 1, 1)
        self.feature = feature
        self.stride = backbone.output_shape()[feature].stride

    def preprocess(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, 3, H, W) float32."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
        return ((pixels - self.mean) / self.std)[None]

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB, sides in whole cells -> (C, h, w) float32.

        The image is continued by its mirror image for MARGIN cells, which are cut off the map again: at a
        border, convolutions see zeros and sense where they are, and matches and colours would show that.
        """
        margin = MARGIN * self.stride
        pixels = F.pad(self.preprocess(image), (margin,) * 4, mode="reflect")
        feature_map = self.backbone(pixels)[self.feature][0]  # (C, h + 2*MARGIN, w + 2*MARGIN)
        return feature_map[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def _extractor(run: Run, start: int = 0, feature: str | None = None) -> FeatureExtractor:
    # Its own generator state: the picture of an untrained network must not depend on what ran before.
    if run.setting("model.backbone") is None:
        raise ConfigError(f"{run.name}: the config of {run.path} has no model.backbone to show.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(run.setting("train.seed", 0)) + start)
        # Resolved where it stands: the backbone may take numbers from elsewhere in the config.
        node = OmegaConf.to_container(run.config.model.backbone, resolve=True)
        backbone = instantiate(OmegaConf.create(node))
    mean, std = run.setting("model.pixel_mean", PIXEL_MEAN), run.setting("model.pixel_std", PIXEL_STD)
    # d2 lists the outputs from fine to coarse: the last one where the model does not name its own.
    outputs = list(backbone.output_shape())
    feature = feature or run.setting("model.in_feature", outputs[-1])
    if feature not in outputs:
        raise ConfigError(f"{run.name}: the backbone has no output {feature!r}, only {', '.join(outputs)}.")
    return FeatureExtractor(backbone, feature, mean, std)


def pretrained_backbone(run: Run, feature: str | None = None) -> FeatureExtractor:
    """The backbone of a run with the weights of its newest checkpoint.

    Args:
        feature: which of its outputs; None: what the method trains on (`model.in_feature`), or the last.

    Raises:
        ConfigError: the config has no backbone, or the backbone no such output.
        CheckpointError: there is no checkpoint, it is damaged, or its backbone is not that of the config.
    """
    if run.checkpoint is None:
        raise CheckpointError(f"{run.name}: {run.path} has no checkpoint yet.")
    model = run.state["model"]
    weights = {k.removeprefix("backbone."): v for k, v in model.items() if k.startswith("backbone.")}
    extractor = _extractor(run, feature=feature)
    try:
        extractor.backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{run.checkpoint} does not hold the backbone of {run.path / 'config.yaml'}: {error}"
        ) from error
    return extractor


def untrained_backbone(run: Run, start: int = 0, feature: str | None = None) -> FeatureExtractor:
    """The same network as initialised: a run that learned nothing equals it, batch-norm statistics included.

    Statistics taken from photographs would make a weaker baseline. Three random starts of a ResNet-18, 16
    pairs of views of 4 coral tiles, nearest neighbours right: 28, 30 and 42 % as initialised, 10, 12 and
    12 % with statistics of those tiles.

    Args:
        start: which random start; 0 has the seed of the run.
        feature: as in `pretrained_backbone`.
    """
    return _extractor(run, start, feature)
