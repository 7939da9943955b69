"""Two views of ImageNet-1k images, augmented as for MoCo v1: grayscale, then colour jitter always, no blur.

facebookresearch/moco main_moco.py:346-354; WXinlong/DenseCL configs/selfsup/moco/r50_v1.py:32-42.
"""

from .imagenet_two_view import dataloader

dataloader.train.mapper.photometric.update(jitter_prob=1.0, grayscale_first=True, blur_prob=0.0)
