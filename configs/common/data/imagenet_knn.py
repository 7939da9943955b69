"""ImageNet-1k for nearest neighbours: training images as the reference, validation images as queries.

open-mmlab/mmselfsup configs/benchmarks/classification/knn_imagenet.py: short side 256, central 224 for both.
"""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from densessl.data.build import build_test_loader
from densessl.data.dataset_mappers import CenterCropMapper
from densessl.data.datasets.labelled import ReferenceAndQuery, build_labelled_source
from densessl.evaluation.knn_evaluation import KNNEvaluator

dataloader = OmegaConf.create()
dataloader.test = L(build_test_loader)(
    dataset=L(ReferenceAndQuery)(
        reference=L(build_labelled_source)(source="imagenet_1k_train"),
        query=L(build_labelled_source)(source="imagenet_1k_val", classes="${..reference.source}"),
    ),
    mapper=L(CenterCropMapper)(short_edge=256, crop_size=224),
    batch_size=64,  # per rank
    num_workers=4,
)
dataloader.evaluator = L(KNNEvaluator)(k=(10, 20, 100, 200), temperature=0.07, vote="weighted")
