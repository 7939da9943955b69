"""MoCo v2 in the miniature benchmark (configs/benchmarks/mini_rcnn.py runs it); not a published recipe.

tools/lazyconfig_train_net.py --config-file configs/benchmarks/mini/moco_v2_R_18.py
"""

from ...common.models.moco import model
from .common import backbone as _backbone
from .common import dataloader, lr_multiplier, optimizer, train

model.backbone = _backbone
model.projection_head.in_channels = 512
model.projection_head.hidden_channels = 512
model.queue_size = 512
model.momentum = 0.99  # a thousand steps instead of hundreds of thousands
train.output_dir = "output/benchmarks/moco_v2_R_18"
