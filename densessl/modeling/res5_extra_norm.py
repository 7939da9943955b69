"""The C4 box head with one more normalisation, used by MoCo, DenseCL and InfoMin for detection.

A trunk trained without supervision gives res5 outputs of another scale than one trained on labels; a norm
after the last residual block evens that out. MoCo: detection/train_net.py; DenseCL:
benchmarks/detection/train_net.py:16-28.
"""

from typing import Any

from detectron2.layers import get_norm
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """`Res5ROIHeads` whose res5 ends with a norm, after the last block's ReLU and before the pooling.

    Its parameters are `res5.norm.*`, as in the published checkpoints.

    Args:
        res5: the residual blocks, a list or a `nn.Sequential`.
        norm: detectron2's name of the normalisation, e.g. "SyncBN"; "" adds nothing.
        arguments: of `Res5ROIHeads`.
    """

    def __init__(self, *, res5: list[nn.Module] | nn.Sequential, norm: str, **arguments: Any) -> None:
        blocks = nn.Sequential(*res5)
        out_channels = blocks[-1].out_channels
        extra = get_norm(norm, out_channels)
        if extra is not None:
            blocks.add_module("norm", extra)
        super().__init__(res5=blocks, **arguments)
