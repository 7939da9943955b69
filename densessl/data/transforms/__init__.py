"""Augmentations whose parameters are drawn from an explicit generator and then applied by functions."""

import cv2

from densessl.data.transforms.crop import crop_view, draw_crop_box, draw_view
from densessl.data.transforms.photometric import PhotometricAugmentation, apply_to_view

__all__ = ["PhotometricAugmentation", "apply_to_view", "crop_view", "draw_crop_box", "draw_view"]

# A view is too small for threads to help. They also hurt: a worker forked while a thread of OpenCV's pool
# holds the pool's lock inherits the lock and no thread, and stops for ever in its first call that asks for
# the pool (seen in cv2.setNumThreads itself). One thread means no pool.
cv2.setNumThreads(1)
