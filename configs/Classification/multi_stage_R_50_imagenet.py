"""Linear classification on five stages of a frozen ResNet-50, ImageNet-1k, 90 epochs: OpenSelfSup's protocol.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Published top-1 of DenseCL (ImageNet, 200 epochs), conv1 and res2 to res5: 15.86 35.47 49.46 64.06 62.95
(mmselfsup 1.0.0). Cost: not stated by the authors. Here: not run at full length.
Source of each number: WXinlong/DenseCL configs/benchmarks/linear_classification/imagenet/r50_multihead.py.
"""

from detectron2.config import LazyCall as L

from densessl.data.transforms import PhotometricAugmentation

from ..common.data.imagenet_classification import dataloader
from ..common.models.multi_stage_classifier import model
from ..common.optim import SGD as optimizer
from ..common.schedule import step
from ..common.train import train

# --- changes results
dataloader.train.total_batch_size = 256  # 32 x 8
dataloader.train.mapper.photometric = L(PhotometricAugmentation)(
    brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0, jitter_prob=1.0, grayscale_prob=0.0, blur_prob=0.0
)
dataloader.train.mapper.lighting_std = 0.1  # Lighting
optimizer.lr = 0.01
optimizer.momentum = 0.9
optimizer.nesterov = True
optimizer.weight_decay = 1e-4  # the norms have no parameters that are trained
# step=[30, 60, 90]: the third falls on the end
lr_multiplier, train.max_iter = step(epochs=90, milestones=[30, 60], images=1281167, batch=256)

# --- bookkeeping
train.eval_period = 50040  # ten epochs, as the authors
train.checkpointer.period = 5004
train.output_dir = "output/multi_stage_R_50_imagenet"
