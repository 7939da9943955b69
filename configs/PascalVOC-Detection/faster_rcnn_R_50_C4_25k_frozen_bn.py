"""Faster R-CNN R50-C4 on VOC 07+12, 25k iterations, batch norms frozen, no extra norm.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

VISSL's older protocol: configs/config/benchmark/object_detection/voc0712/iccv19/
rn50_transfer_voc0712_detectron2_e2e.yaml. Its numbers do not compare with those of the 24k recipes.
As there, stem and res2 are frozen (FREEZE_AT 2) and nothing is re-estimated before an evaluation.
It needs pretrained weights: from random ones activations grow from block to frozen block. Frozen norms at lr
0.02 gave NaN to a user of MoCo's weights (facebookresearch/moco issue 40); VISSL's file for PIRL and NPID
(voc0712/pirl_npid) has lr 0.002 and a warm-up of 1000. Not run at full length here.
"""

from ..common.schedule import multistep
from .faster_rcnn_R_50_C4_24k import dataloader, model, optimizer, train

# ROI_HEADS.NAME Res5ROIHeads; detectron2/config/defaults.py: RESNETS.NORM FrozenBN, BACKBONE.FREEZE_AT 2
model.backbone.norm = "FrozenBN"
model.backbone.freeze_at = 2
model.roi_heads.norm = ""
model.roi_heads.res5.norm = "FrozenBN"
# SOLVER: STEPS (17000,), MAX_ITER 25000, WARMUP_ITERS 100
lr_multiplier, train.max_iter = multistep(max_iter=25000, milestones=(17000,), warmup_iters=100)
train.hooks = []

# --- bookkeeping
train.output_dir = "output/faster_rcnn_R_50_C4_25k_frozen_bn"
