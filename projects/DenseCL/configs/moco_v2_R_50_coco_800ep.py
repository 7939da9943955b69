r"""MoCo v2, ResNet-50, COCO train2017, 800 epochs: the baseline of DenseCL.

    tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file projects/DenseCL/configs/moco_v2_R_50_coco_800ep.py

Published: 54.7 AP on VOC07+12 detection, 64.5 mIoU on VOC segmentation (WXinlong/DenseCL README.md:31-61).
Cost: as DenseCL on COCO, 1.0 day on 8 V100; MoCo v2 is less than 1 % faster (README.md:16).
Here: not run at full length.
The authors released no config for this row; data and optimiser are those of DenseCL on COCO.
"""

from ....configs.common.models.moco import model
from .densecl_R_50_coco_800ep import dataloader, lr_multiplier, optimizer, train

model.dataset_size = 118287
train.output_dir = "output/moco_v2_R_50_coco_800ep"
