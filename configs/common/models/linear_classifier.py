"""A linear layer on the pooled res5 of a frozen ResNet-50 (facebookresearch/moco main_lincls.py)."""

from detectron2.config import LazyCall as L

from densessl.modeling.backbone import build_resnet
from densessl.modeling.meta_arch import LinearClassifier

model = L(LinearClassifier)(
    backbone=L(build_resnet)(depth=50, norm="BN", out_features=["res5"]),
    in_feature="res5",
    num_classes=1000,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
