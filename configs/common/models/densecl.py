"""DenseCL, ResNet-50 (https://arxiv.org/abs/2011.09157; openselfsup/models/densecl.py, necks.py:357-397)."""

from detectron2.config import LazyCall as L

from densessl.modeling.backbone import build_resnet
from densessl.modeling.heads import DenseProjectionHead, GlobalProjectionHead
from densessl.modeling.meta_arch import DenseCL

model = L(DenseCL)(
    # plain batch norm, shuffled across processes (MoCo section 3.3)
    backbone=L(build_resnet)(depth=50, norm="BN", out_features=["res5"], init="fan_in"),
    in_feature="res5",
    projection_head=L(GlobalProjectionHead)(
        in_channels=2048,  # of res5: 512 at depth 18 and 34
        hidden_channels=2048,
        out_channels=128,
        init="openselfsup",
    ),
    dense_projection_head=L(DenseProjectionHead)(
        in_channels="${..projection_head.in_channels}",
        hidden_channels="${..projection_head.hidden_channels}",
        out_channels="${..projection_head.out_channels}",
        num_grid=None,  # all positions of the map: 7 x 7 at 224 px
        init="${..projection_head.init}",
    ),
    queue_size=65536,
    momentum=0.999,
    temperature=0.2,
    loss_weight=0.5,
    symmetric=False,
    shuffle_groups=1,  # parts with batch statistics of their own: g in one process computes as g processes
    dataset_size=None,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
