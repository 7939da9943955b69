"""DenseCL for the quickstart: ResNet-18 on the training tiles of `coral` and scikit-image's photographs.

    python datasets/prepare_coral.py && python datasets/prepare_photos.py
    tools/lazyconfig_train_net.py --config-file configs/quickstart/densecl_R_18_coral.py

The method of projects/DenseCL at a size for two CPU cores. No held-out tile is seen.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler

from ..common.data.imagenet_two_view import dataloader
from ..common.models.densecl import model
from ..common.optim import SGD as optimizer
from ..common.train import train

# --- changes results
dataloader.train.dataset.source = ["coral_train", "photos"]
dataloader.train.mapper.crop_size = 96
dataloader.train.total_batch_size = 32
dataloader.train.num_workers = 2
model.backbone.depth = 18
model.projection_head.in_channels = 512
model.projection_head.hidden_channels = 512
# a queue of one pass over the pictures: a longer one would hold the query's own picture as a negative
model.queue_size = 64
model.momentum = 0.99  # hundreds of steps instead of hundreds of thousands
optimizer.lr = 0.06
optimizer.weight_decay = 1e-4
lr_multiplier = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
train.max_iter = 800

# --- changes speed (and rounding)
train.channels_last = True

# --- bookkeeping
train.checkpointer.period = 200
train.output_dir = "output/quickstart/densecl_R_18_coral"
