"""Cityscapes instances, 8 classes: train on the 2 975 fine training pictures, test on the 500 of val.

Needs `pip install 'densessl[cityscapes]'`.
Source: mmselfsup configs/benchmarks/detectron2/Cityscapes/mask_rcnn_R_50_FPN.yaml (min {800..1024 step 32},
max 2048, test 1024 / 2048, batch 8).
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from densessl.evaluation.cityscapes_evaluation import CityscapesInstanceEvaluator

from .coco_instance import dataloader

dataloader.train.dataset.names = "cityscapes_fine_instance_seg_train"
dataloader.train.mapper.augmentations[0] = L(T.ResizeShortestEdge)(
    short_edge_length=tuple(range(800, 1025, 32)), sample_style="choice", max_size=2048
)
dataloader.train.total_batch_size = 8
dataloader.test.dataset.names = "cityscapes_fine_instance_seg_val"
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=1024, max_size=2048)]
dataloader.evaluator = L(CityscapesInstanceEvaluator)(dataset_name="${..test.dataset.names}")
