r"""DenseCL, ResNet-50, ImageNet-1k, 200 epochs.

    tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file projects/DenseCL/configs/densecl_R_50_imagenet_200ep.py

Published: 58.7 AP on VOC07+12 detection, 69.4 mIoU on VOC segmentation (WXinlong/DenseCL README.md:31-61);
63.5 % top-1 linear (mmselfsup 1.0.0, whose initial weights differ).
Cost: 2.3 days on 8 V100 (README.md:31-42). Here: not run at full length.
Line numbers without a file: WXinlong/DenseCL configs/selfsup/densecl/densecl_imagenet_200ep.py at b64bbb6.
"""

from ....configs.common.data.imagenet_two_view import dataloader
from ....configs.common.models.densecl import model
from ....configs.common.optim import SGD as optimizer
from ....configs.common.schedule import cosine
from ....configs.common.train import train

# --- changes results
model.dataset_size = 1281167  # images of train
dataloader.train.total_batch_size = 256  # 8 GPUs x 32, imgs_per_gpu
optimizer.lr = 0.03  # optimizer; a tenth of the COCO recipe's
optimizer.momentum = 0.9
optimizer.weight_decay = 1e-4  # of all parameters, biases and norms included
# lr_config: CosineAnnealing to 0, once per epoch; 1281167 // 256 = 5004 iterations per epoch
lr_multiplier, train.max_iter = cosine(epochs=200, images=1281167, batch=256)

# --- bookkeeping
train.checkpointer.period = 5004  # one epoch; the authors keep every tenth
train.output_dir = "output/densecl_R_50_imagenet_200ep"
