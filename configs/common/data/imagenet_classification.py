"""Labelled ImageNet-1k: random crops and mirror for training, the central crop for test.

Your own images, a folder per class: dataloader.train.dataset.source=TRAIN dataloader.test.dataset.source=VAL
model.num_classes=NUMBER. A flat `imagenet/val` with a list:
dataloader.test.dataset.source=imagenet_1k_val_list. Numbers: facebookresearch/moco main_lincls.py:210-262;
WXinlong/DenseCL configs/benchmarks/linear_classification/imagenet/r50_last.py; facebookresearch/simsiam
main_lincls.py.
"""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from densessl.data.build import build_test_loader, build_train_loader
from densessl.data.dataset_mappers import CenterCropMapper, RandomCropMapper, collate_labelled
from densessl.data.datasets.labelled import build_labelled_source
from densessl.evaluation.classification_evaluation import ClassificationEvaluator

dataloader = OmegaConf.create()

dataloader.train = L(build_train_loader)(
    # --- changes results
    dataset=L(build_labelled_source)(source="imagenet_1k_train", num_classes="${model.num_classes}"),
    mapper=L(RandomCropMapper)(
        crop_size=224,
        crop_scale=(0.08, 1.0),  # torchvision's default
        flip_prob=0.5,
        photometric=None,
        lighting_std=0.0,
    ),
    total_batch_size=256,
    drop_last=True,  # the originals keep the last, smaller batch: 5005 steps per epoch at 256, here 5004
    seed="${train.seed}",
    accumulate="${train.accumulate}",
    # --- changes speed
    num_workers=4,
    # --- bookkeeping
    collate_fn=collate_labelled,
    bad_image="raise",
)

dataloader.test = L(build_test_loader)(
    dataset=L(build_labelled_source)(
        source="imagenet_1k_val",
        classes="${dataloader.train.dataset.source}",
        num_classes="${model.num_classes}",
    ),
    mapper=L(CenterCropMapper)(short_edge=256, crop_size=224),
    batch_size=64,  # per rank
    num_workers=4,
)

dataloader.evaluator = L(ClassificationEvaluator)(top_k=(1, 5))
