"""Linear classification on a frozen ResNet-50, ImageNet-1k, 90 epochs with LARS: the protocol of SimSiam.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Published top-1: SimSiam, 100 epochs, 68.1 (pretrained at batch 512) and 68.3 (256), facebookresearch/simsiam
README. Cost: not stated by the authors. Here: not run at full length.
Source: facebookresearch/simsiam main_lincls.py (its main_worker, adjust_learning_rate) and the README's
    command
(`-b 4096 --lars`, the other values defaults; 90 epochs).
"""

from ..common.data.imagenet_classification import dataloader
from ..common.models.linear_classifier import model
from ..common.optim import LARS as optimizer
from ..common.schedule import cosine
from ..common.train import train

# --- changes results
dataloader.train.total_batch_size = 4096  # --batch-size
optimizer.lr = 0.1 * 4096 / 256  # init_lr = args.lr * args.batch_size / 256, with --lr 0.1
optimizer.momentum = 0.9  # --momentum
optimizer.weight_decay = 0.0  # --wd
# adjust_learning_rate once per epoch; 1281167 // 4096 = 312 iterations per epoch
lr_multiplier, train.max_iter = cosine(epochs=90, images=1281167, batch=4096)

# --- bookkeeping
train.eval_period = 312  # one epoch, as the authors
train.checkpointer.period = 312
train.output_dir = "output/linear_R_50_imagenet_simsiam"
