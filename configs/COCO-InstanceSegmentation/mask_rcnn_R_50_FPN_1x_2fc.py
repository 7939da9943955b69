"""Mask R-CNN R50-FPN on COCO, 1x, standard box head of two fully connected layers.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

The variant of MoCo (issues 34 and 39 of its repository) and OpenSelfSup / mmselfsup
(configs/benchmarks/detectron2/coco_R_50_FPN_1x_moco.yaml): SyncBN in trunk and pyramid only. Its numbers do
not compare with those of the 4conv1fc variant. As in the originals, batch statistics are re-estimated before
each evaluation (PRECISE_BN); `train.hooks=[]` leaves that out.
mmselfsup, MoCo-v2 ImageNet 200 epochs: 40.2 box AP, 36.1 mask AP. Not run at full length here.
"""

from detectron2.config import LazyCall as L

from densessl.engine.precise_bn import PreciseBNHook

from ..common.data.coco_instance import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

# R_50_FPN_1x.yaml and detectron2's Base-RCNN-FPN.yaml: lr 0.02 at batch 16, 90k iterations, a tenth at 60k
# and 80k, 1000 of warm-up, weight decay 1e-4 and none for norms (SOLVER.WEIGHT_DECAY_NORM)
optimizer.lr = 0.02
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = 0.0
lr_multiplier, train.max_iter = multistep(max_iter=90000, milestones=(60000, 80000), warmup_iters=1000)
# R_50_FPN_1x.yaml: TEST.PRECISE_BN.ENABLED; detectron2/config/defaults.py: TEST.PRECISE_BN.NUM_ITER = 200
train.hooks = [L(PreciseBNHook)(period="${train.eval_period}", num_iter=200)]

# --- bookkeeping
train.output_dir = "output/mask_rcnn_R_50_FPN_1x_2fc"
