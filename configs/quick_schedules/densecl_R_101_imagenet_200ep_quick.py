"""CPU-sized twin of projects/DenseCL/configs/densecl_R_101_imagenet_200ep.py: 10 iterations in seconds.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/densecl_R_101_imagenet_200ep_quick.py
"""

from ...projects.DenseCL.configs.densecl_R_101_imagenet_200ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from ..common.quick import shrink_pretraining

shrink_pretraining(model, dataloader, train)
train.output_dir = "output/quick/densecl_R_101_imagenet_200ep"
