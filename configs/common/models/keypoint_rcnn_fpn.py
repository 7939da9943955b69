"""Keypoint R-CNN, ResNet-50 and feature pyramid, as self-supervised trunks are compared on it.

detectron2's tree (1500 proposals per image in training, smooth L1 with beta 0.5 for boxes, eight convolutions
of 512 for 17 keypoints) with: our trunk (stride in the 3x3 convolution, nothing frozen, SyncBN), SyncBN after
every convolution of the pyramid, RGB input with ImageNet statistics.
Source: mmselfsup configs/benchmarks/detectron2/Base-Keypoint-RCNN-FPN.yaml, keypoint_rcnn_R_50_FPN_2x.yaml.
"""

from pathlib import Path

import detectron2
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig

from densessl.modeling.backbone import build_resnet

_TREES = Path(detectron2.__file__).parent / "model_zoo" / "configs" / "common" / "models"
model = LazyConfig.load(str(_TREES / "keypoint_rcnn_fpn.py")).model

model.backbone.bottom_up = L(build_resnet)(
    depth=50, norm="SyncBN", out_features=["res2", "res3", "res4", "res5"], freeze_at=0
)
model.backbone.norm = "SyncBN"
model.input_format = "RGB"
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
