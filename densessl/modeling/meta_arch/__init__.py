"""Methods, registered with detectron2's META_ARCH_REGISTRY."""

from densessl.modeling.meta_arch.densecl import DenseCL
from densessl.modeling.meta_arch.moco import MoCo
from densessl.modeling.meta_arch.simsiam import SimSiam

__all__ = ["DenseCL", "MoCo", "SimSiam"]
