"""COCO 2017 persons with 17 keypoints; training images have at least one visible keypoint.

Source: mmselfsup configs/benchmarks/detectron2/Base-Keypoint-RCNN-FPN.yaml; detectron2/config/defaults.py:
ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE 1.
"""

from detectron2.config import LazyCall as L

from densessl.data.keypoints import keypoint_flip_indices

from .coco_instance import dataloader

dataloader.train.dataset.names = "keypoints_coco_2017_train"
dataloader.train.dataset.min_keypoints = 1
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.use_keypoint = True
dataloader.train.mapper.keypoint_hflip_indices = L(keypoint_flip_indices)(dataset_names="${...dataset.names}")
dataloader.test.dataset.names = "keypoints_coco_2017_val"
dataloader.evaluator.tasks = ("bbox", "keypoints")
