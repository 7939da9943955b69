"""CPU-sized twin of configs/Classification/linear_R_50_imagenet_moco.py: 10 iterations.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/linear_R_50_imagenet_moco_quick.py
"""

from ..Classification.linear_R_50_imagenet_moco import dataloader, lr_multiplier, model, optimizer, train
from ..common.quick_classification import shrink_classification

shrink_classification(model, dataloader, train)
optimizer.lr = 0.01  # 30 is for a pretrained ResNet-50
train.output_dir = "output/quick/linear_R_50_imagenet_moco"
