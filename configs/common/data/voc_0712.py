"""Pascal VOC 07+12 boxes: train on trainval of both years, test on 2007.

Source: DenseCL benchmarks/detection/configs/pascal_voc_R_50_C4_24k.yaml (min {480..800 step 32}, max 1333,
test 800 / 1333, batch 16).
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from densessl.evaluation.voc_evaluation import PascalVOCDetectionEvaluator

from .coco_instance import dataloader

dataloader.train.dataset.names = ("voc_2007_trainval", "voc_2012_trainval")
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations[0].short_edge_length = tuple(range(480, 801, 32))
dataloader.test.dataset.names = "voc_2007_test"
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)]
dataloader.evaluator = L(PascalVOCDetectionEvaluator)(dataset_name="${..test.dataset.names}")
