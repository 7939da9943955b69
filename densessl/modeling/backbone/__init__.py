"""Trunks: detectron2's ResNet in torchvision's layout, and any convolutional or windowed trunk of timm."""

from densessl.modeling.backbone.resnet import build_resnet
from densessl.modeling.backbone.timm_backbone import TimmBackbone

__all__ = ["TimmBackbone", "build_resnet"]
