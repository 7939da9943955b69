"""RetinaNet, ResNet-50 and feature pyramid (P3 to P7), as self-supervised trunks are compared on it.

detectron2's tree with: our trunk (stride in the 3x3 convolution, nothing frozen, SyncBN), SyncBN after every
convolution of the pyramid (P6 and P7, which read res5, have none), RGB input with ImageNet statistics, and
the class that resumes exactly.
Source: mmselfsup configs/benchmarks/detectron2/Base-RetinaNet.yaml, coco_R_50_RetinaNet_1x.yaml.
"""

from pathlib import Path

import detectron2
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig

from densessl.modeling.backbone import build_resnet
from densessl.modeling.meta_arch.retinanet import ResumableRetinaNet

_TREES = Path(detectron2.__file__).parent / "model_zoo" / "configs" / "common" / "models"
model = LazyConfig.load(str(_TREES / "retinanet.py")).model

model._target_ = ResumableRetinaNet
model.backbone.bottom_up = L(build_resnet)(
    depth=50, norm="SyncBN", out_features=["res3", "res4", "res5"], freeze_at=0
)
model.backbone.norm = "SyncBN"
model.input_format = "RGB"
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
