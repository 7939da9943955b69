"""Fine-tuning of a whole ResNet-50 on 10 % of ImageNet-1k's labels, 20 epochs: OpenSelfSup's protocol.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 4 train.init_checkpoint=PRETRAINED

The protocol is a grid: optimizer.lr of 0.1, 0.01, 0.001 times a head's factor of 1, 10, 100
(`optimizer.params.overrides.0.lr_factor`), the best of the nine is what is reported. The values below are one
of them. Images: `imagenet/meta/train_10pct.txt` (datasets/README.md), 128116 lines. Published for DenseCL:
none that we know. Here: not run at full length.
Source: WXinlong/DenseCL configs/benchmarks/semi_classification/imagenet_10percent/.
"""

from ..common.schedule import step
from .semi_supervised_R_50_imagenet_1pct import dataloader, model, optimizer, train

# --- changes results
dataloader.train.dataset.source = "imagenet_1k_train_10pct"
# step=[12, 16], gamma=0.2; 128116 // 256 = 500 iterations per epoch
lr_multiplier, train.max_iter = step(epochs=20, milestones=[12, 16], images=128116, batch=256, factor=0.2)

# --- bookkeeping
train.checkpointer.period = 500
train.output_dir = "output/semi_supervised_R_50_imagenet_10pct"
