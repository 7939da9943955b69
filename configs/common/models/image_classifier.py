"""ResNet-50, global average pooling and a linear layer, all trained.

WXinlong/DenseCL configs/benchmarks/semi_classification/imagenet_1percent/base.py (model).
"""

from detectron2.config import LazyCall as L

from densessl.modeling.backbone import build_resnet
from densessl.modeling.meta_arch import ImageClassifier

model = L(ImageClassifier)(
    backbone=L(build_resnet)(depth=50, norm="SyncBN", out_features=["res5"]),
    in_feature="res5",
    num_classes=1000,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
