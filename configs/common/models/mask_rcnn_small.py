"""A Mask R-CNN that trains on two CPU cores in minutes: ResNet-18, narrow pyramid and heads.

mask_rcnn_fpn.py with 64 pyramid channels, plain BN everywhere (from random weights nothing trains without a
norm), anchors from 32 pixels, 200 proposals, 64 regions per image, one fully connected layer of 256, three
mask convolutions, and boxes and masks that do not depend on the class: with tens of instances per class, what
an outline looks like has to be learned from all of them together.
"""

from detectron2.layers import ShapeSpec

from .mask_rcnn_fpn import model

CHANNELS = 64

model.backbone.bottom_up.depth = 18
model.backbone.bottom_up.norm = "BN"
model.backbone.norm = "BN"
model.backbone.out_channels = CHANNELS

_rpn = model.proposal_generator
_rpn.head.in_channels = CHANNELS
_rpn.batch_size_per_image = 128
_rpn.pre_nms_topk = (500, 500)
_rpn.post_nms_topk = (200, 200)

_heads = model.roi_heads
_heads.batch_size_per_image = 64
_heads.box_head.input_shape = ShapeSpec(channels=CHANNELS, height=7, width=7)
_heads.box_head.fc_dims = [256]
_heads.box_predictor.input_shape = ShapeSpec(channels=256)
_heads.box_predictor.cls_agnostic_bbox_reg = True
_heads.box_predictor.test_score_thresh = 0.02
_heads.mask_head.input_shape = ShapeSpec(channels=CHANNELS, width=14, height=14)
_heads.mask_head.conv_dims = [CHANNELS] * 3
_heads.mask_head.num_classes = 1
