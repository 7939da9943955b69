"""COCO 2017 boxes and masks: detectron2's scale augmentation, RGB.

Source: DenseCL benchmarks/detection/configs/R_50_FPN_1x.yaml (min {640..800 step 32}, max 1333, batch 16).
"""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, get_detection_dataset_dicts

from densessl.data.build import build_test_loader, build_train_loader
from densessl.evaluation.coco_evaluation import COCOEvaluator

dataloader = dict(
    train=L(build_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.ResizeShortestEdge)(
                    short_edge_length=(640, 672, 704, 736, 768, 800), sample_style="choice", max_size=1333
                ),
                L(T.RandomFlip)(horizontal=True),
            ],
            image_format="RGB",
            use_instance_mask=True,
        ),
        total_batch_size=16,
        accumulate="${train.accumulate}",
        seed="${train.seed}",
        num_workers=4,
        aspect_ratio_grouping=True,
    ),
    test=L(build_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            image_format="${...train.mapper.image_format}",
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(
        dataset_name="${..test.dataset.names}",
        tasks=("bbox", "segm"),
        output_dir="${train.output_dir}/inference",  # predictions, for the report
    ),
)
