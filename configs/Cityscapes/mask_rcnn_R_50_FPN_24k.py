"""Mask R-CNN R50-FPN on Cityscapes, 24k iterations of batch 8, SyncBN in trunk and pyramid.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Needs `pip install 'densessl[cityscapes]'` and evaluates on one machine. PRETRAINED is a pretrained trunk, not
a COCO detector. Source: mmselfsup configs/benchmarks/detectron2/Cityscapes/mask_rcnn_R_50_FPN_moco.yaml. As
there, batch statistics are re-estimated before each evaluation (PRECISE_BN); `train.hooks=[]` leaves that
out. Figures of MoCo's paper (arXiv:1911.05722) could not be checked and are left out. Not run in full here.
"""

from detectron2.config import LazyCall as L

from densessl.engine.precise_bn import PreciseBNHook

from ..common.data.cityscapes_instance import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

model.roi_heads.num_classes = 8
# Cityscapes/mask_rcnn_R_50_FPN.yaml: lr 0.01 at batch 8, 24k iterations, a tenth at 18k;
# detectron2/config/defaults.py: 1000 of warm-up, weight decay 1e-4 and none for norms
optimizer.lr = 0.01
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = 0.0
lr_multiplier, train.max_iter = multistep(max_iter=24000, milestones=(18000,), warmup_iters=1000)
# Cityscapes/mask_rcnn_R_50_FPN.yaml: TEST.PRECISE_BN.ENABLED; detectron2/config/defaults.py: NUM_ITER = 200
train.hooks = [L(PreciseBNHook)(period="${train.eval_period}", num_iter=200)]

# --- bookkeeping
train.output_dir = "output/mask_rcnn_R_50_FPN_24k"
