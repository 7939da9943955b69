"""LVIS v1 boxes and masks: COCO's pipeline, rare classes repeated.

Source: detectron2 configs/LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml (SAMPLER_TRAIN
RepeatFactorTrainingSampler, REPEAT_THRESHOLD 0.001; min {640..800 step 32}, max 1333, batch 16).
"""

from detectron2.config import LazyCall as L

from densessl.evaluation.lvis_evaluation import LVISEvaluator

from .coco_instance import dataloader

dataloader.train.dataset.names = "lvis_v1_train"
dataloader.train.repeat_threshold = 0.001
dataloader.test.dataset.names = "lvis_v1_val"
dataloader.evaluator = L(LVISEvaluator)(
    dataset_name="${..test.dataset.names}",
    tasks=("bbox", "segm"),
    output_dir="${train.output_dir}/inference",  # predictions, for the report
)
