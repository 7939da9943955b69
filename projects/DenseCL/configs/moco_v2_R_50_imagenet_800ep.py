r"""MoCo v2, ResNet-50, ImageNet-1k, 800 epochs.

    tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file projects/DenseCL/configs/moco_v2_R_50_imagenet_800ep.py

Published: 71.1 % top-1 linear, 57.4 AP on VOC07+12 detection (facebookresearch/moco README.md and
detection/README.md). Cost: four times that of 200 epochs. Here: not run at full length.
"""

from ....configs.common.schedule import cosine
from .moco_v2_R_50_imagenet_200ep import dataloader, model, optimizer, train

lr_multiplier, train.max_iter = cosine(epochs=800, images=1281167, batch=256)
train.output_dir = "output/moco_v2_R_50_imagenet_800ep"
