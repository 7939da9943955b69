"""Backbones of a run for pictures: with the weights of its checkpoint, and the same network untrained."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from densessl.errors import CheckpointError
from densessl.visualization.runs import Run

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, 0-255, as every config


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

    def preprocess(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, 3, H, W) float32."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
        return ((pixels - self.mean) / self.std)[None]

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB -> (C, h, w) float32; h and w round up to whole cells."""
        return self.backbone(self.preprocess(image))[self.feature][0]


def _extractor(run: Run) -> FeatureExtractor:
    # Its own generator state: the picture of an untrained network must not depend on what ran before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(run.setting("train.seed", 0)))
        # A saved config may set the backbone's numbers by interpolation: resolve before cutting it out.
        node = OmegaConf.create(OmegaConf.to_container(run.config.model, resolve=True))
        backbone = instantiate(node.backbone)
    mean, std = run.setting("model.pixel_mean", PIXEL_MEAN), run.setting("model.pixel_std", PIXEL_STD)
    # d2 lists the outputs from fine to coarse: the last one where the model does not name its own.
    feature = run.setting("model.in_feature", list(backbone.output_shape())[-1])
    return FeatureExtractor(backbone, feature, mean, std)


def pretrained_backbone(run: Run) -> FeatureExtractor:
    """The backbone of a pretraining run with the weights of its newest checkpoint.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or its backbone is not that of the config.
    """
    if run.checkpoint is None:
        raise CheckpointError(f"{run.name}: {run.path} has no checkpoint yet.")
    model = run.state["model"]
    weights = {k.removeprefix("backbone."): v for k, v in model.items() if k.startswith("backbone.")}
    extractor = _extractor(run)
    try:
        extractor.backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{run.checkpoint} does not hold the backbone of {run.path / 'config.yaml'}: {error}"
        ) from error
    return extractor


def random_backbone(run: Run, images: Sequence[np.ndarray]) -> FeatureExtractor:
    """The same network as initialised, with batch-norm statistics taken from `images`.

    Without statistics of its own an untrained network would be compared with one that has them.

    Args:
        images: (H, W, 3) uint8 RGB each.
    """
    extractor = _extractor(run)
    norms = [m for m in extractor.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain average over the images
        norm.train()
    with torch.no_grad():
        for image in images:
            extractor.backbone(extractor.preprocess(image))
    extractor.backbone.eval()
    return extractor


def resized(image: np.ndarray, long_side: int, multiple: int = 32) -> np.ndarray:
    """A photograph scaled to `long_side` pixels, both sides rounded to whole cells of stride `multiple`."""
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    size = [max(multiple, round(side * scale / multiple) * multiple) for side in (width, height)]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=method)
