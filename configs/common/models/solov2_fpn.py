"""SOLOv2, ResNet-50 and feature pyramid (P2 to P6), as self-supervised trunks are compared on it.

Our trunk (stride in the 3x3 convolution, nothing frozen, SyncBN), SyncBN after every convolution of the
pyramid, GN in the heads, RGB input with ImageNet statistics. On CPU the trainer puts BN for SyncBN.
Source: AdelaiDet configs/DenseCL/SOLOv2_R50_1x.yaml, configs/SOLOv2/Base-SOLOv2.yaml; numbers of the heads,
losses and inference: adet/config/defaults.py, MODEL.SOLOV2.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool

from densessl.modeling.backbone import build_resnet
from densessl.modeling.heads import SOLOv2InstanceHead, SOLOv2MaskHead
from densessl.modeling.meta_arch import SOLOv2

model = L(SOLOv2)(
    backbone=L(FPN)(
        bottom_up=L(build_resnet)(
            depth=50, norm="SyncBN", out_features=["res2", "res3", "res4", "res5"], freeze_at=0
        ),
        in_features=["res2", "res3", "res4", "res5"],
        out_channels=256,
        norm="SyncBN",
        top_block=L(LastLevelMaxPool)(),
    ),
    instance_head=L(SOLOv2InstanceHead)(
        in_channels="${..backbone.out_channels}",
        num_classes="${..num_classes}",
        num_grids=[40, 36, 24, 16, 12],  # NUM_GRIDS
        num_convs=4,  # NUM_INSTANCE_CONVS
        channels=512,  # INSTANCE_CHANNELS
        kernel_channels=256,  # NUM_KERNELS
        norm="GN",  # NORM
        prior_prob=0.01,  # PRIOR_PROB
    ),
    mask_head=L(SOLOv2MaskHead)(
        in_channels="${..backbone.out_channels}",
        num_levels=4,  # MASK_IN_FEATURES
        channels=128,  # MASK_CHANNELS
        out_channels="${..instance_head.kernel_channels}",  # NUM_MASKS, equal by construction of the mask
        norm="${..instance_head.norm}",
    ),
    num_classes=80,
    input_format="RGB",
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    instance_in_features=["p2", "p3", "p4", "p5", "p6"],  # INSTANCE_IN_FEATURES
    mask_in_features=["p2", "p3", "p4", "p5"],  # MASK_IN_FEATURES
    instance_strides=[8, 8, 16, 32, 32],  # FPN_INSTANCE_STRIDES
    scale_ranges=[[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]],  # FPN_SCALE_RANGES
    sigma=0.2,  # SIGMA
    category_weight=1.0,  # LOSS.FOCAL_WEIGHT
    mask_weight=3.0,  # LOSS.DICE_WEIGHT
    focal_alpha=0.25,  # LOSS.FOCAL_ALPHA
    focal_gamma=2.0,  # LOSS.FOCAL_GAMMA
    normalize_over_ranks=True,  # the authors: False
    score_threshold=0.1,  # SCORE_THR
    mask_threshold=0.5,  # MASK_THR
    update_threshold=0.05,  # UPDATE_THR
    pre_nms_topk=500,  # NMS_PRE
    max_detections_per_image=100,  # MAX_PER_IMG
    nms_kernel="gaussian",  # NMS_KERNEL
    nms_sigma=2.0,  # NMS_SIGMA
)
