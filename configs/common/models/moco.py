"""MoCo v2, ResNet-50 (https://arxiv.org/abs/2003.04297), with the initial weights of OpenSelfSup's training.

Version 1: projection_head.hidden_channels=None, temperature=0.07."""

from detectron2.config import LazyCall as L

from densessl.modeling.backbone import build_resnet
from densessl.modeling.heads import GlobalProjectionHead
from densessl.modeling.meta_arch import MoCo

model = L(MoCo)(
    # plain batch norm, shuffled across processes (MoCo section 3.3)
    backbone=L(build_resnet)(depth=50, norm="BN", out_features=["res5"], init="fan_in"),
    in_feature="res5",
    projection_head=L(GlobalProjectionHead)(
        in_channels=2048,  # of res5: 512 at depth 18 and 34
        hidden_channels=2048,
        out_channels=128,
        init="openselfsup",
    ),
    queue_size=65536,
    momentum=0.999,
    temperature=0.2,
    symmetric=False,
    shuffle_groups=1,  # parts with batch statistics of their own: g in one process computes as g processes
    dataset_size=None,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
