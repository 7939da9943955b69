r"""SimSiam, ResNet-50, ImageNet-1k, 100 epochs.

    tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file projects/DenseCL/configs/simsiam_R_50_imagenet_100ep.py

Published: 68.1 % top-1 linear at batch 512, 68.3 % at 256 (facebookresearch/simsiam README.md).
Cost: not stated by the authors. Here: not run at full length.
Source of each number: facebookresearch/simsiam main_simsiam.py at a7bc177, with the README's `--fix-pred-lr`.
"""

from ....configs.common.data.imagenet_two_view import dataloader
from ....configs.common.models.simsiam import model
from ....configs.common.optim import SGD as optimizer
from ....configs.common.schedule import cosine
from ....configs.common.train import train

# --- changes results
dataloader.train.total_batch_size = 512  # --batch-size
optimizer.lr = 0.05 * 512 / 256  # init_lr = args.lr * args.batch_size / 256, with --lr 0.05
optimizer.momentum = 0.9  # --momentum
optimizer.weight_decay = 1e-4  # --wd, of all parameters
# --fix-pred-lr: the predictor's rate stays constant (adjust_learning_rate, "fix_lr")
optimizer.params.overrides = [dict(pattern=r"^prediction_head\.", fixed_lr=True)]
# adjust_learning_rate once per epoch; 1281167 // 512 = 2502 iterations per epoch
lr_multiplier, train.max_iter = cosine(epochs=100, images=1281167, batch=512)

# --- bookkeeping
train.checkpointer.period = 2502  # one epoch, as the authors
train.output_dir = "output/simsiam_R_50_imagenet_100ep"
