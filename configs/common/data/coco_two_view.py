"""Two views of COCO train2017 images (118,287, labels not read), augmented as for ImageNet.

WXinlong/DenseCL configs/selfsup/densecl/densecl_coco_800ep.py:31-58 has the numbers of the ImageNet recipe.
"""

from .imagenet_two_view import dataloader

dataloader.train.dataset.source = "coco_2017_train_images"
