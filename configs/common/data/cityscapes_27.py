"""Cityscapes: training on test and train_extra without labels, evaluation on val and train, 27 classes.

Numbers: janghyuncho/PiCIE sh_files/train_picie_cityscapes.sh, data/cityscapes_train_dataset.py and
data/cityscapes_eval_dataset.py. Unlike there, view 1 has its colours changed in training as in clustering:
their training pass leaves the change out (cityscapes_train_dataset.py:81), a bug that they mended for COCO.
"""

from detectron2.config import LazyCall as L

from densessl.data.datasets.semantic import CITYSCAPES_CLASSES, build_cityscapes, cityscapes_27_labels
from densessl.data.sources import build_image_source

from .coco_stuff_27 import dataloader

dataloader.train.dataset = L(build_image_source)(
    source=["cityscapes_test_images", "cityscapes_train_extra_images"],
)
dataloader.test.dataset = L(build_cityscapes)(splits=("val", "train"))
dataloader.test.mapper.map_labels = cityscapes_27_labels
dataloader.evaluator.class_names = list(CITYSCAPES_CLASSES)
dataloader.evaluator.is_thing = None  # no split is published
