"""PiCIE, ResNet-18, lateral pyramid (https://arxiv.org/abs/2103.17070; janghyuncho/PiCIE modules/fpn.py)."""

from detectron2.config import LazyCall as L

from densessl.modeling.backbone import LateralFPN, build_resnet
from densessl.modeling.meta_arch import PiCIE

model = L(PiCIE)(
    backbone=L(LateralFPN)(
        bottom_up=L(build_resnet)(
            # the authors' DataParallel has batch norms of one GPU's share of the batch
            depth=18,
            norm="BN",
            out_features=["res2", "res3", "res4", "res5"],
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=128,  # 256 for ResNet-50
    ),
    in_feature="p2",
    # --- changes results
    num_clusters=27,
    num_views=2,
    classifier=None,  # the centroids
    resolution=320,
    alignment="exact",  # published: the authors' rounding
    balance="frequency",
    num_fresh=1,  # clusterings for the final evaluation, --repeats
    loss_distance_weight=0.0,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
