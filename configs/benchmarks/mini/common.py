"""What all pretrainings of the miniature benchmark share: pictures, views, trunk, budget. Not a recipe.

The trunk is built first in every model and with the same `init`, so that one seed gives the same initial
trunk to all methods, and to the detector that starts from random weights.
"""

from detectron2.config import LazyCall as L
from fvcore.common.param_scheduler import CosineParamScheduler

from densessl.modeling.backbone import build_resnet

from ...common.data.imagenet_two_view import dataloader
from ...common.optim import SGD as optimizer
from ...common.train import train

backbone = L(build_resnet)(depth=18, norm="BN", out_features=["res5"], init="fan_out")

dataloader.train.dataset.source = "cutpaste_train"
dataloader.train.mapper.crop_size = 128
dataloader.train.total_batch_size = 64
dataloader.train.num_workers = 8
lr_multiplier = L(CosineParamScheduler)(start_value=1.0, end_value=0.0)
train.max_iter = 1000
train.channels_last = True
train.checkpointer.period = 250
