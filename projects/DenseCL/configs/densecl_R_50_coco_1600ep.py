r"""DenseCL, ResNet-50, COCO train2017, 1600 epochs.

    tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file projects/DenseCL/configs/densecl_R_50_coco_1600ep.py

Published: 57.2 AP on VOC07+12 detection, 68.0 mIoU on VOC segmentation (WXinlong/DenseCL README.md:31-61).
Cost: 2.0 days on 8 V100 (README.md:31-42). Here: not run at full length.
The authors released no config for this row; everything but the length is that of 800 epochs.
"""

from ....configs.common.schedule import cosine
from .densecl_R_50_coco_800ep import dataloader, model, optimizer, train

lr_multiplier, train.max_iter = cosine(epochs=1600, images=118287, batch=256)
train.output_dir = "output/densecl_R_50_coco_1600ep"
