"""Average pooling of a ResNet's five stages to feature vectors of about equal length.

The features of the VOC07 linear SVM and of OpenSelfSup's multi-layer linear probe: the first convolution
after its norm and ReLU (before the max pooling), and the four stages, pooled to 12, 6, 4, 3 and 2 positions a
side. For ResNet-50 that makes 9216, 9216, 8192, 9216 and 8192 numbers. Source: WXinlong/DenseCL
openselfsup/models/utils/multi_pooling.py, openselfsup/models/backbones/resnet.py (forward).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ("conv1", "res2", "res3", "res4", "res5")
STRIDES = {"conv1": 2, "res2": 4, "res3": 8, "res4": 16, "res5": 32}
POOLED_SIDES = {"conv1": 12, "res2": 6, "res3": 4, "res4": 3, "res5": 2}
# kernel, stride, padding of the published windows, made for maps of a 224-pixel image; padded zeros count
WINDOWS = {"conv1": (10, 10, 4), "res2": (16, 8, 0), "res3": (13, 5, 0), "res4": (8, 3, 0), "res5": (6, 1, 0)}
POOLINGS = ("specified", "adaptive")


def stage_maps(backbone: nn.Module, images: Tensor, stages: Sequence[str] = STAGES) -> dict[str, Tensor]:
    """Maps of the stages of detectron2's ResNet.

    `backbone(images)["stem"]` comes after the max pooling, so the trunk is walked here.

    Args:
        backbone: detectron2 ResNet with a BasicStem and the stages asked for.
        images: (N, 3, H, W), normalised.
        stages: some of `STAGES`.

    Returns:
        {stage: (N, C, H', W')}.
    """
    # detectron2's BasicStem.forward, cut in two
    x = F.relu(backbone.stem.conv1(images))
    maps = {"conv1": x}
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    for name, stage in zip(backbone.stage_names, backbone.stages):
        x = maps[name] = stage(x)
    return {name: maps[name] for name in stages}


def pool_stage(feature: Tensor, stage: str, pooling: str = "specified") -> Tensor:
    """(N, C, H, W) map of `stage` -> (N, C, s, s), s from `POOLED_SIDES`.

    Args:
        pooling: "specified", the published windows (H = W = 224 / stride only), or "adaptive", torch's
            adaptive windows for maps of any size.

    Raises:
        ValueError: windows of "specified" on a map of another size, or an unknown pooling.
    """
    side = POOLED_SIDES[stage]
    if pooling == "adaptive":
        return F.adaptive_avg_pool2d(feature, side)
    if pooling != "specified":
        raise ValueError(f"pooling {pooling!r} is unknown; use one of {', '.join(POOLINGS)}")
    expected = 224 // STRIDES[stage]
    if tuple(feature.shape[-2:]) != (expected, expected):
        raise ValueError(
            f"the published windows for {stage} need a map of {expected} x {expected} (images of 224 x 224), "
            f"got {tuple(feature.shape[-2:])}; use pooling='adaptive'"
        )
    return F.avg_pool2d(feature, *WINDOWS[stage])
