r"""DenseCL, ResNet-50, COCO train2017, 800 epochs.

    tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file projects/DenseCL/configs/densecl_R_50_coco_800ep.py

Published: 56.7 AP on VOC07+12 detection, 67.5 mIoU on VOC segmentation (WXinlong/DenseCL README.md:31-61).
Cost: 1.0 day on 8 V100 (README.md:31-42). Here: not run at full length.
Line numbers without a file: WXinlong/DenseCL configs/selfsup/densecl/densecl_coco_800ep.py at b64bbb6.
"""

from ....configs.common.data.coco_two_view import dataloader
from ....configs.common.models.densecl import model
from ....configs.common.optim import SGD as optimizer
from ....configs.common.schedule import cosine
from ....configs.common.train import train

# --- changes results
model.dataset_size = 118287  # images of train2017
dataloader.train.total_batch_size = 256  # 8 GPUs x 32, imgs_per_gpu
optimizer.lr = 0.3  # optimizer
optimizer.momentum = 0.9
optimizer.weight_decay = 1e-4  # of all parameters, biases and norms included
# lr_config: CosineAnnealing to 0, once per epoch; 118287 // 256 = 462 iterations per epoch, as in the log of
# WXinlong/DenseCL issue 6
lr_multiplier, train.max_iter = cosine(epochs=800, images=118287, batch=256)

# --- bookkeeping
train.checkpointer.period = 10 * 462  # ten epochs; the authors keep every fortieth
train.output_dir = "output/densecl_R_50_coco_800ep"
