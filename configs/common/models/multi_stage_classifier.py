"""A linear layer on each of five stages of a frozen ResNet-50.

WXinlong/DenseCL configs/benchmarks/linear_classification/imagenet/r50_multihead.py (model).
"""

from detectron2.config import LazyCall as L

from densessl.modeling.backbone import build_resnet
from densessl.modeling.meta_arch import MultiStageClassifier

model = L(MultiStageClassifier)(
    backbone=L(build_resnet)(depth=50, norm="BN", out_features=["res5"]),
    stages=["conv1", "res2", "res3", "res4", "res5"],
    pooling="specified",  # for 224-pixel crops; "adaptive" for any size
    norm="SyncBN",
    num_classes=1000,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
