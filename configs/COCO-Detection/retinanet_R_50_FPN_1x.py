"""RetinaNet R50-FPN on COCO, 1x, SyncBN in trunk and pyramid.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Source: mmselfsup configs/benchmarks/detectron2/coco_R_50_RetinaNet_1x_moco.yaml. As there, batch statistics
are re-estimated before each evaluation (PRECISE_BN); `train.hooks=[]` leaves that out. No figure is published
for DenseCL. Not run at full length here.
"""

from detectron2.config import LazyCall as L

from densessl.engine.precise_bn import PreciseBNHook

from ..common.data.coco_detection import dataloader
from ..common.models.retinanet import model
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

# Base-RetinaNet.yaml: lr 0.01 (half of Mask R-CNN's) at batch 16, 90k iterations, a tenth at 60k and 80k;
# detectron2/config/defaults.py: 1000 of warm-up, weight decay 1e-4 and none for norms
optimizer.lr = 0.01
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = 0.0
lr_multiplier, train.max_iter = multistep(max_iter=90000, milestones=(60000, 80000), warmup_iters=1000)
# coco_R_50_RetinaNet_1x.yaml: TEST.PRECISE_BN.ENABLED; detectron2/config/defaults.py: NUM_ITER = 200
train.hooks = [L(PreciseBNHook)(period="${train.eval_period}", num_iter=200)]

# --- bookkeeping
train.output_dir = "output/retinanet_R_50_FPN_1x"
