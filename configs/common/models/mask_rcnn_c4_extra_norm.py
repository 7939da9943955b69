"""Mask R-CNN, ResNet-50, C4, with a norm after res5, as self-supervised trunks are compared on COCO.

detectron2's tree with: our trunk (stride in the 3x3 convolution, nothing frozen, SyncBN), the same norm in
and after the heads' res5, which box and mask branch share, RGB input with ImageNet statistics.
Source: DenseCL benchmarks/detection/configs/Base-RCNN-C4-BN.yaml and train_net.py; facebookresearch/moco
detection/configs/coco_R_50_C4_2x_moco.yaml.
"""

from pathlib import Path

import detectron2
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig

from densessl.modeling.backbone import build_resnet
from densessl.modeling.res5_extra_norm import Res5ROIHeadsExtraNorm

_TREES = Path(detectron2.__file__).parent / "model_zoo" / "configs" / "common" / "models"
model = LazyConfig.load(str(_TREES / "mask_rcnn_c4.py")).model

model.backbone = L(build_resnet)(depth=50, norm="SyncBN", out_features=["res4"], freeze_at=0)
model.proposal_generator.post_nms_topk = (2000, 1000)  # Base-RCNN-C4-BN.yaml: RPN test 6000 / 1000

_roi_heads = model.roi_heads
_roi_heads._target_ = Res5ROIHeadsExtraNorm
_roi_heads.norm = "SyncBN"
_roi_heads.res5.norm = "${..norm}"
_roi_heads.res5.stride_in_1x1 = False

model.input_format = "RGB"
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
