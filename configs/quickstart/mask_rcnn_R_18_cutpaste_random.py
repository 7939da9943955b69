"""Small Mask R-CNN on the `cutpaste` sample from random weights.

    python datasets/prepare_cutpaste.py
    tools/lazyconfig_train_net.py --config-file configs/quickstart/mask_rcnn_R_18_cutpaste_random.py

Cost and AP: docs/benchmarks.md.
"""

from ..common.data.cutpaste_instance import dataloader
from ..common.models.mask_rcnn_small import model
from .mask_rcnn_R_18_coral_random import lr_multiplier, optimizer, train

# 32 pixels and up on pictures of 224: the model's own anchors; levels to match
for _pooler in (model.roi_heads.box_pooler, model.roi_heads.mask_pooler):
    _pooler.canonical_box_size = 224
model.roi_heads.num_classes = 8
optimizer.lr = 1e-3
train.max_iter = 500
train.output_dir = "output/quickstart/mask_rcnn_R_18_cutpaste_random"
