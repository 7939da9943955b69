"""COCO 2017 boxes without masks: coco_instance.py for detectors that have no mask head."""

from .coco_instance import dataloader

dataloader.train.mapper.use_instance_mask = False
dataloader.evaluator.tasks = ("bbox",)
