"""Fine-tuning of a whole ResNet-50 on 1 % of ImageNet-1k's labels, 20 epochs: OpenSelfSup's protocol.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 4 train.init_checkpoint=PRETRAINED

The protocol is a grid: optimizer.lr of 0.1, 0.01, 0.001 times a head's factor of 1, 10, 100
(`optimizer.params.overrides.0.lr_factor`), the best of the nine is what is reported. The values below are one
of them. Images: `imagenet/meta/train_1pct.txt` (datasets/README.md), 12811 lines. Published for DenseCL: none
that we know. Here: not run at full length.
Source: WXinlong/DenseCL configs/benchmarks/semi_classification/imagenet_1percent/.
"""

from ..common.data.imagenet_classification import dataloader
from ..common.models.image_classifier import model
from ..common.optim import SGD as optimizer
from ..common.schedule import step
from ..common.train import train

# --- changes results
dataloader.train.dataset.source = "imagenet_1k_train_1pct"
dataloader.train.total_batch_size = 256  # 64 x 4
optimizer.lr = 0.01  # one of the grid
optimizer.params.overrides = [dict(pattern=r"^head\.", lr_factor=10.0)]  # one of the grid
optimizer.momentum = 0.9
optimizer.weight_decay = 5e-4
# step=[12, 16], gamma=0.2; 12811 // 256 = 50 iterations per epoch
lr_multiplier, train.max_iter = step(epochs=20, milestones=[12, 16], images=12811, batch=256, factor=0.2)

# --- bookkeeping
train.eval_period = 0  # at the end, as the authors
train.checkpointer.period = 50
train.output_dir = "output/semi_supervised_R_50_imagenet_1pct"
