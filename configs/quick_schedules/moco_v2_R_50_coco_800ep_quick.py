"""CPU-sized twin of projects/DenseCL/configs/moco_v2_R_50_coco_800ep.py: 10 iterations in seconds.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/moco_v2_R_50_coco_800ep_quick.py
"""

from ...projects.DenseCL.configs.moco_v2_R_50_coco_800ep import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from ..common.quick import shrink_pretraining

shrink_pretraining(model, dataloader, train)
train.output_dir = "output/quick/moco_v2_R_50_coco_800ep"
