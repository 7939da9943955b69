r"""SimSiam, ResNet-50, COCO train2017, 800 epochs: a baseline without negatives beside DenseCL on COCO.

    tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file projects/DenseCL/configs/simsiam_R_50_coco_800ep.py

Published: nothing by SimSiam's authors; the ImageNet recipe with the images and length of DenseCL on COCO.
Cost: not measured. Here: not run at full length.
"""

from ....configs.common.data.coco_two_view import dataloader
from ....configs.common.schedule import cosine
from .simsiam_R_50_imagenet_100ep import model, optimizer, train

dataloader.train.total_batch_size = 512  # --batch-size
# 118287 // 512 = 231 iterations per epoch
lr_multiplier, train.max_iter = cosine(epochs=800, images=118287, batch=512)
train.checkpointer.period = 20 * 231  # twenty epochs
train.output_dir = "output/simsiam_R_50_coco_800ep"
