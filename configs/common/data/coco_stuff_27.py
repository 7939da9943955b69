"""Curated COCO: 49,629 training images without labels, 2,175 validation images with 27 classes.

Numbers: janghyuncho/PiCIE sh_files/train_picie.sh, data/coco_train_dataset.py, data/coco_eval_dataset.py.
"""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from densessl.data.build import build_test_loader, build_train_loader
from densessl.data.dataset_mappers import ClusterViewMapper, LabelledSquareMapper, collate_cluster_views
from densessl.data.datasets.coco_stuff import class_names, is_thing, map_labels
from densessl.data.datasets.semantic import build_coco_stuff, build_curated_coco
from densessl.data.transforms import FixedOrderPhotometric
from densessl.evaluation.cluster_seg_evaluation import ClusterSegEvaluator

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    # --- changes results
    dataset=L(build_curated_coco)(
        split="train2017",
        list_file=None,  # the curated list; all: every image with labels
    ),
    mapper=L(ClusterViewMapper)(
        size=640,  # --res2; twice model.resolution
        crop_scale=(0.5, 1.0),  # --min_scale
        flip_prob=0.5,
        photometric=L(FixedOrderPhotometric)(
            brightness=0.3,
            contrast=0.3,
            saturation=0.3,
            hue=0.1,
            jitter_prob=0.8,
            grayscale_prob=0.0,  # asked for in the script, and never applied
            blur_prob=0.5,
            blur_sigma=None,  # the authors' law
        ),
    ),
    total_batch_size=128,
    drop_last=True,
    seed="${train.seed}",
    accumulate="${train.accumulate}",
    # --- changes speed
    num_workers=4,  # per rank
    # --- bookkeeping
    collate_fn=collate_cluster_views,
    bad_image="raise",
)
dataloader.test = L(build_test_loader)(
    dataset=L(build_coco_stuff)(split="val2017", list_file=None),
    mapper=L(LabelledSquareMapper)(size=320, map_labels=map_labels),
    batch_size=32,  # per rank
    num_workers=4,
)
dataloader.evaluator = L(ClusterSegEvaluator)(
    class_names=L(class_names)(num_classes=27),
    num_clusters="${model.num_clusters}",
    is_thing=L(is_thing)(num_classes=27),
)
