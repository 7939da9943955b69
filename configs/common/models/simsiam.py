"""SimSiam, ResNet-50 (https://arxiv.org/abs/2011.10566; simsiam/builder.py, main_simsiam.py)."""

from detectron2.config import LazyCall as L

from densessl.modeling.backbone import build_resnet
from densessl.modeling.heads import SimSiamPredictor, SimSiamProjector
from densessl.modeling.meta_arch import SimSiam

model = L(SimSiam)(
    # torchvision's weights, last norm of each block 0 (builder.py: zero_init_residual); norms synchronised
    # (main_simsiam.py:161)
    backbone=L(build_resnet)(
        depth=50, norm="SyncBN", out_features=["res5"], init="fan_out", zero_init_residual=True
    ),
    in_feature="res5",
    projection_head=L(SimSiamProjector)(
        in_channels=2048,  # of res5: 512 at depth 18 and 34
        out_channels=2048,
        norm="${..backbone.norm}",
    ),
    prediction_head=L(SimSiamPredictor)(
        channels="${..projection_head.out_channels}",
        hidden_channels=512,  # a quarter of channels
        norm="${..backbone.norm}",
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
