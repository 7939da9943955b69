"""DenseCL for the quickstart: ResNet-18 on the training tiles of `coral` and scikit-image's photographs.

    python datasets/prepare_coral.py && python datasets/prepare_photos.py
    tools/lazyconfig_train_net.py --config-file configs/quickstart/densecl_R_18_coral.py

The method of projects/DenseCL at a size for two CPU cores. It learns from no held-out tile; the diagnostics
read their features, at the start, the end and in between.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler

from densessl.diagnostics.hook import DiagnosticsHook

from ..common.data.imagenet_two_view import dataloader
from ..common.models.densecl import model
from ..common.optim import SGD as optimizer
from ..common.train import train

# --- changes results
dataloader.train.dataset.source = ["coral_train", "photos"]
dataloader.train.mapper.crop_size = 96
# Colour tells the corals apart: with the published jitter (0.4, 0.4, 0.4, 0.1, grayscale 0.2) a linear probe
# of res5 on held-out tiles had 52 to 55 % of the cells right, with this one 64 % (docs/benchmarks.md; other
# settings differed too).
dataloader.train.mapper.photometric.update(
    brightness=0.2, contrast=0.2, saturation=0.1, hue=0.02, grayscale_prob=0.0
)
dataloader.train.total_batch_size = 32
dataloader.train.num_workers = 2
model.backbone.depth = 18
model.projection_head.in_channels = 512
model.projection_head.hidden_channels = 512
# 256 keys of 95 pictures: one negative in a hundred is the query's own picture
model.queue_size = 256
model.momentum = 0.99  # hundreds of steps instead of hundreds of thousands
optimizer.lr = 0.12
lr_multiplier = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
train.max_iter = 450

# --- changes speed (and rounding)
train.channels_last = True

# --- bookkeeping
train.hooks = [
    L(DiagnosticsHook)(
        dataset="coral_val",
        memory_dataset="coral_train",
        diagnostics=["spectrum", "correspondence", "retrieval"],
        period=150,
        num_images=20,
    )
]
train.checkpointer.period = 150
train.output_dir = "output/quickstart/densecl_R_18_coral"
