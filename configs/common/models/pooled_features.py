"""A ResNet-50 whose pooled res5 is compared as it is (mmselfsup configs/benchmarks/classification)."""

from detectron2.config import LazyCall as L

from densessl.modeling.backbone import build_resnet
from densessl.modeling.meta_arch import PooledFeatures

model = L(PooledFeatures)(
    backbone=L(build_resnet)(depth=50, norm="BN", out_features=["res5"]),
    in_feature="res5",
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
