"""Trunks: detectron2's ResNet in torchvision's layout, any trunk of timm; PiCIE's pyramid on a trunk."""

from densessl.modeling.backbone.lateral_fpn import LateralFPN
from densessl.modeling.backbone.resnet import build_resnet
from densessl.modeling.backbone.timm_backbone import TimmBackbone

__all__ = ["LateralFPN", "TimmBackbone", "build_resnet"]
