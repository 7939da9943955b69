"""Faster R-CNN R50-C4 on VOC 07+12, 24k iterations, with the extra norm.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

The detection protocol of MoCo and DenseCL (benchmarks/detection/configs/pascal_voc_R_50_C4_24k_moco.yaml).
Papers give the mean of five runs; deviation about 0.2 AP50, 0.2 AP, 0.4 AP75. AP of MoCo-v2 and DenseCL:
54.7 and 56.7 (COCO, 800 epochs), 57.0 and 58.7 (ImageNet, 200 epochs). As in the originals, batch statistics
are re-estimated before each evaluation (PRECISE_BN); `train.hooks=[]` leaves that out. Not run at full length
here.
"""

from detectron2.config import LazyCall as L

from densessl.engine.precise_bn import PreciseBNHook

from ..common.data.voc_0712 import dataloader
from ..common.models.faster_rcnn_c4_extra_norm import model
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

# pascal_voc_R_50_C4_24k.yaml: lr 0.02 at batch 16, a tenth at 18k and 22k, 100 iterations of warm-up from a
# thousandth; weight decay 1e-4 and none for norms (detectron2's default)
optimizer.lr = 0.02
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = 0.0
lr_multiplier, train.max_iter = multistep(max_iter=24000, milestones=(18000, 22000), warmup_iters=100)
# Base-RCNN-C4-BN.yaml: TEST.PRECISE_BN.ENABLED; detectron2/config/defaults.py: TEST.PRECISE_BN.NUM_ITER = 200
train.hooks = [L(PreciseBNHook)(period="${train.eval_period}", num_iter=200)]

# --- bookkeeping
train.output_dir = "output/faster_rcnn_R_50_C4_24k"
