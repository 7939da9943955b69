"""CPU-sized twin of configs/Classification/multi_stage_R_50_imagenet.py: 10 iterations.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/multi_stage_R_50_imagenet_quick.py
"""

from ..Classification.multi_stage_R_50_imagenet import dataloader, lr_multiplier, model, optimizer, train
from ..common.quick_classification import shrink_classification

shrink_classification(model, dataloader, train)
train.output_dir = "output/quick/multi_stage_R_50_imagenet"
