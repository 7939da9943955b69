"""Methods, registered with detectron2's META_ARCH_REGISTRY."""

from densessl.modeling.meta_arch.densecl import DenseCL
from densessl.modeling.meta_arch.image_classifier import ImageClassifier, PooledFeatures
from densessl.modeling.meta_arch.linear_classifier import LinearClassifier, MultiStageClassifier
from densessl.modeling.meta_arch.moco import MoCo
from densessl.modeling.meta_arch.picie import PiCIE
from densessl.modeling.meta_arch.simsiam import SimSiam
from densessl.modeling.meta_arch.solov2 import SOLOv2

__all__ = [
    "DenseCL",
    "ImageClassifier",
    "LinearClassifier",
    "MoCo",
    "MultiStageClassifier",
    "PiCIE",
    "PooledFeatures",
    "SOLOv2",
    "SimSiam",
]
