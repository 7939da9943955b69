"""FCOS, ResNet-50 and feature pyramid (P3 to P7), in its authors' form, as DenseCL is compared on it.

detectron2's tree (P6 and P7 read P5; 4 + 4 convolutions with GN) with: our trunk (stride in the 3x3
convolution, nothing frozen, SyncBN), SyncBN after every convolution of the pyramid, the authors' head,
targets, losses and scores, RGB input with ImageNet statistics.
Source: AdelaiDet configs/DenseCL/FCOS_R50_1x.yaml, FCOS_R50_1x_DenseCL.yaml, adet/config/defaults.py.
"""

from pathlib import Path

import detectron2
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig

from densessl.modeling.backbone import build_resnet
from densessl.modeling.meta_arch.fcos import AuthorsFCOS, ScaledFCOSHead

_TREES = Path(detectron2.__file__).parent / "model_zoo" / "configs" / "common" / "models"
model = LazyConfig.load(str(_TREES / "fcos.py")).model

model._target_ = AuthorsFCOS
model.backbone.bottom_up = L(build_resnet)(
    depth=50, norm="SyncBN", out_features=["res3", "res4", "res5"], freeze_at=0
)
model.backbone.norm = "SyncBN"
model.head._target_ = ScaledFCOSHead
# adet/config/defaults.py: NORM GN (33), NUM_CLS_CONVS, NUM_BOX_CONVS 4 (62-63), PRIOR_PROB 0.01 (24)
model.head.norm = "GN"
model.head.conv_dims = [256, 256, 256, 256]
model.head.prior_prob = 0.01
model.center_sampling_radius = 1.5  # POS_RADIUS (66)
model.focal_loss_alpha = 0.25  # LOSS_ALPHA (47)
model.focal_loss_gamma = 2.0  # LOSS_GAMMA (48)
model.test_score_thresh = 0.05  # INFERENCE_TH_TEST (26), of the class probability
model.test_topk_candidates = 1000  # PRE_NMS_TOPK_TEST (29), per level
model.test_nms_thresh = 0.6  # NMS_TH (27)
model.max_detections_per_image = 100  # POST_NMS_TOPK_TEST (31)
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
