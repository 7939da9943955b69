r"""DenseCL, ResNet-101, ImageNet-1k, 200 epochs.

    tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file projects/DenseCL/configs/densecl_R_101_imagenet_200ep.py

Published: 61.3 AP on VOC07+12 detection, 74.1 mIoU on VOC segmentation (WXinlong/DenseCL README.md:31-61).
Cost: 4.3 days on 8 V100 (README.md:31-42). Here: not run at full length.
The authors released no config for this row; everything but the depth is that of ResNet-50.
"""

from .densecl_R_50_imagenet_200ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.depth = 101
train.output_dir = "output/densecl_R_101_imagenet_200ep"
