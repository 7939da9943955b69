"""Faster R-CNN, ResNet-50, C4, with a norm after res5, as self-supervised trunks are compared on VOC.

mask_rcnn_c4_extra_norm.py without the mask head, 20 classes.
Source: DenseCL benchmarks/detection/configs/Base-RCNN-C4-BN.yaml, pascal_voc_R_50_C4_24k.yaml, train_net.py.
"""

from .mask_rcnn_c4_extra_norm import model

model.roi_heads.num_classes = 20
del model.roi_heads["mask_head"]
