"""Linear classification on a frozen ResNet-50, ImageNet-1k, 100 epochs: the protocol of MoCo and DenseCL.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Published top-1: MoCo v1 60.6, v2 67.7 (200 epochs) and 71.1 (800), facebookresearch/moco README; DenseCL 63.5
(mmselfsup 1.0.0); all pretrained on ImageNet. Cost: not stated by the authors. Here: not run at full length.
Source: facebookresearch/moco main_lincls.py (defaults) and README; the same numbers in WXinlong/DenseCL
configs/benchmarks/linear_classification/imagenet/r50_last.py. A rate of 0.3 instead of 30, which suits other
methods, gives DenseCL about 1.8 (mmselfsup issue 340).
"""

from ..common.data.imagenet_classification import dataloader
from ..common.models.linear_classifier import model
from ..common.optim import SGD as optimizer
from ..common.schedule import step
from ..common.train import train

# --- changes results
dataloader.train.total_batch_size = 256  # --batch-size
optimizer.lr = 30.0  # --lr
optimizer.momentum = 0.9  # --momentum
optimizer.weight_decay = 0.0  # --weight-decay
# --schedule 60 80; 1281167 // 256 = 5004 iterations per epoch
lr_multiplier, train.max_iter = step(epochs=100, milestones=[60, 80], images=1281167, batch=256)

# --- bookkeeping
train.eval_period = 5004  # one epoch, as the authors
train.checkpointer.period = 5004
train.output_dir = "output/linear_R_50_imagenet_moco"
