"""The `cutpaste` sample for a small detector: rescaled, mirrored and recoloured crops."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from .coral_instance import dataloader

_SIZE = 224

dataloader.train.dataset.names = "cutpaste_train"
dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(min_scale=1.0, max_scale=1.4, target_height=_SIZE, target_width=_SIZE),
    L(T.FixedSizeCrop)(crop_size=(_SIZE, _SIZE), pad=False),
    L(T.RandomFlip)(horizontal=True),
    L(T.RandomBrightness)(intensity_min=0.7, intensity_max=1.3),
    L(T.RandomContrast)(intensity_min=0.7, intensity_max=1.3),
    L(T.RandomSaturation)(intensity_min=0.7, intensity_max=1.3),
]
dataloader.test.dataset.names = "cutpaste_val"
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=_SIZE, max_size=2 * _SIZE)]
