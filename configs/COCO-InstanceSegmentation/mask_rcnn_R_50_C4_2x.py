"""Mask R-CNN R50-C4 on COCO, 2x, with the extra norm; box and mask branch share res5 and its norm.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

The C4 comparison of MoCo (facebookresearch/moco detection/configs/coco_R_50_C4_2x_moco.yaml) with SyncBN as
in DenseCL's Base-RCNN-C4-BN.yaml and mmselfsup's coco_R_50_C4_2x_moco.yaml; MoCo itself has naiveSyncBN since
d00ef73 (model.backbone.norm=naiveSyncBN model.roi_heads.norm=naiveSyncBN). mmselfsup's files train with
MAX_SIZE_TRAIN 1200, not detectron2's 1333: add dataloader.train.mapper.augmentations.0.max_size=1200. As in
the originals, batch statistics are re-estimated before each evaluation (PRECISE_BN). Figures of MoCo's paper
(arXiv:1911.05722) could not be checked and are left out. Not run at full length here.
"""

from detectron2.config import LazyCall as L

from densessl.engine.precise_bn import PreciseBNHook

from ..common.data.coco_instance import dataloader
from ..common.models.mask_rcnn_c4_extra_norm import model
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

# Base-RCNN-C4-BN.yaml: lr 0.02 at batch 16; coco_R_50_C4_2x.yaml: 180k iterations, a tenth at 120k and 160k;
# detectron2/config/defaults.py: 1000 of warm-up, weight decay 1e-4 and none for norms
optimizer.lr = 0.02
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = 0.0
lr_multiplier, train.max_iter = multistep(max_iter=180000, milestones=(120000, 160000), warmup_iters=1000)
# Base-RCNN-C4-BN.yaml: TEST.PRECISE_BN.ENABLED; detectron2/config/defaults.py: TEST.PRECISE_BN.NUM_ITER = 200
train.hooks = [L(PreciseBNHook)(period="${train.eval_period}", num_iter=200)]

# --- bookkeeping
train.output_dir = "output/mask_rcnn_R_50_C4_2x"
