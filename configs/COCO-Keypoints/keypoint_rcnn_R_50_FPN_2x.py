"""Keypoint R-CNN R50-FPN on COCO persons, 2x, SyncBN in trunk and pyramid.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Source: mmselfsup configs/benchmarks/detectron2/keypoint_rcnn_R_50_FPN_2x_moco.yaml. As there, batch
statistics are re-estimated before each evaluation (PRECISE_BN); `train.hooks=[]` leaves that out. Figures of
MoCo's paper (arXiv:1911.05722) could not be checked and are left out. Not run at full length here.
"""

from detectron2.config import LazyCall as L

from densessl.engine.precise_bn import PreciseBNHook

from ..common.data.coco_keypoint import dataloader
from ..common.models.keypoint_rcnn_fpn import model
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

# Base-RCNN-FPN.yaml: lr 0.02 at batch 16; keypoint_rcnn_R_50_FPN_2x.yaml: 180k iterations, a tenth at 120k
# and 160k; detectron2/config/defaults.py: 1000 of warm-up, weight decay 1e-4 and none for norms
optimizer.lr = 0.02
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = 0.0
lr_multiplier, train.max_iter = multistep(max_iter=180000, milestones=(120000, 160000), warmup_iters=1000)
# keypoint_rcnn_R_50_FPN_2x.yaml: TEST.PRECISE_BN.ENABLED; detectron2/config/defaults.py: NUM_ITER = 200
train.hooks = [L(PreciseBNHook)(period="${train.eval_period}", num_iter=200)]

# --- bookkeeping
train.output_dir = "output/keypoint_rcnn_R_50_FPN_2x"
