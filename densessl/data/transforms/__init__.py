"""Augmentations whose parameters are drawn from an explicit generator and then applied by functions."""

from densessl.data.transforms.center_crop import resize_center_crop
from densessl.data.transforms.crop import crop_view, draw_crop_box, draw_view
from densessl.data.transforms.fixed_order import FixedOrderPhotometric
from densessl.data.transforms.photometric import PhotometricAugmentation, apply_to_view

__all__ = [
    "FixedOrderPhotometric",
    "PhotometricAugmentation",
    "apply_to_view",
    "crop_view",
    "draw_crop_box",
    "draw_view",
    "resize_center_crop",
]
