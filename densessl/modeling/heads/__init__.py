"""Heads after the trunk; those of pretraining are dropped when the trunk transfers."""

from densessl.modeling.heads.cluster_classifier import ClusterClassifier
from densessl.modeling.heads.projection import DenseProjectionHead, GlobalProjectionHead
from densessl.modeling.heads.simsiam import SimSiamPredictor, SimSiamProjector
from densessl.modeling.heads.solov2 import SOLOv2InstanceHead, SOLOv2MaskHead

__all__ = [
    "ClusterClassifier",
    "DenseProjectionHead",
    "GlobalProjectionHead",
    "SOLOv2InstanceHead",
    "SOLOv2MaskHead",
    "SimSiamPredictor",
    "SimSiamProjector",
]
