"""Heads after the trunk; they are dropped when the trunk transfers."""

from densessl.modeling.heads.projection import DenseProjectionHead, GlobalProjectionHead
from densessl.modeling.heads.simsiam import SimSiamPredictor, SimSiamProjector

__all__ = ["DenseProjectionHead", "GlobalProjectionHead", "SimSiamPredictor", "SimSiamProjector"]
