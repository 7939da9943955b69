"""Detectron2's ResNet as self-supervised methods and their downstream models use it.

"Deep Residual Learning for Image Recognition" (https://arxiv.org/abs/1512.03385). The stride sits in the 3x3
convolution (torchvision's layout), so that weights from pretraining, torchvision and the authors of DenseCL,
MoCo and SimSiam fit without change; detectron2's own default is the MSRA layout.
"""

from collections.abc import Sequence

from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn

from densessl.errors import ConfigError

DEPTHS = (18, 34, 50, 101, 152)
# the names that detectron2.layers.get_norm knows; "" is none
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")
INITS = ("fan_out", "fan_in")


def build_resnet(
    depth: int,
    norm: str = "BN",
    out_features: Sequence[str] = ("res5",),
    freeze_at: int = 0,
    init: str = "fan_out",
    zero_init_residual: bool = False,
) -> ResNet:
    """Builds a ResNet for RGB input; strides of res2 .. res5 are 4, 8, 16, 32.

    Args:
        depth: 18, 34, 50, 101 or 152.
        norm: detectron2's name of the normalisation: "BN", "SyncBN", "FrozenBN", "GN" ...
        out_features: maps to return, of "stem", "res2" .. "res5".
        freeze_at: stages to freeze, 0 for none, 1 for the stem, 2 for the stem and res2 ...
        init: convolutions normal with variance 2 / fan_out (torchvision, MoCo, SimSiam), or 2 / fan_in
            (DenseCL: openselfsup/models/backbones/resnet.py:388-403).
        zero_init_residual: the last norm of every block starts at 0, so that blocks start as identities
            (SimSiam: main_simsiam.py builds torchvision's ResNet with it).

    Raises:
        ConfigError: an unknown depth, norm, output name or init.
    """
    if depth not in DEPTHS:
        raise ConfigError(f"build_resnet: depth={depth}; use one of {', '.join(map(str, DEPTHS))}.")
    known = ("stem", "res2", "res3", "res4", "res5")
    if not out_features or any(name not in known for name in out_features):
        raise ConfigError(f"build_resnet: out_features={list(out_features)}; use some of {', '.join(known)}.")
    if init not in INITS:
        raise ConfigError(f"build_resnet: init={init!r}; use one of {', '.join(INITS)}.")
    if isinstance(norm, str) and norm not in NORMS:  # get_norm takes callables as well
        raise ConfigError(f"build_resnet: norm={norm!r}; use one of {', '.join(filter(None, NORMS))}.")
    # blocks of depth 18 and 34 have one convolution per stride and no such choice
    layout = {"stride_in_1x1": False} if depth >= 50 else {}
    model = ResNet(
        stem=BasicStem(in_channels=3, out_channels=64, norm=norm),
        stages=ResNet.make_default_stages(depth, norm=norm, **layout),
        out_features=list(out_features),
        freeze_at=freeze_at,
    )
    # detectron2 draws fan_out itself (fvcore c2_msra_fill)
    if init == "fan_in":
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    if zero_init_residual:
        for stage in model.stages:
            for block in stage:
                last = block.conv3 if depth >= 50 else block.conv2
                nn.init.zeros_(last.norm.weight)
    return model
