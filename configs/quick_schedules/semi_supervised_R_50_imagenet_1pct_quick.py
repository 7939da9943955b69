"""CPU-sized twin of configs/Classification/semi_supervised_R_50_imagenet_1pct.py: 10 iterations.

tools/lazyconfig_train_net.py --config-file \\
    configs/quick_schedules/semi_supervised_R_50_imagenet_1pct_quick.py
"""

from ..Classification.semi_supervised_R_50_imagenet_1pct import (
    dataloader,
    lr_multiplier,
    model,
    optimizer,
    train,
)
from ..common.quick_classification import shrink_classification

shrink_classification(model, dataloader, train)
train.output_dir = "output/quick/semi_supervised_R_50_imagenet_1pct"
