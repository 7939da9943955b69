"""Small Mask R-CNN on the `coral` sample from random weights, the baseline of the quickstart.

    python datasets/prepare_coral.py
    tools/lazyconfig_train_net.py --config-file configs/quickstart/mask_rcnn_R_18_coral_random.py

Cost and AP: docs/benchmarks.md.
"""

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from ..common.data.coral_instance import dataloader
from ..common.models.mask_rcnn_small import model
from ..common.optim import AdamW as optimizer
from ..common.train import train

# --- changes results
model.roi_heads.num_classes = 4
# anchors of 16 pixels and up on tiles of 160: half of the boxes are smaller than 50 pixels there
model.proposal_generator.anchor_generator.sizes = [[16], [32], [64], [128], [256]]
for _pooler in (model.roi_heads.box_pooler, model.roi_heads.mask_pooler):
    _pooler.canonical_box_size = 128  # level p4; 224 and anchors of 32 in the original
# A rate for fine-tuning, for both starts. At 1e-3 AdamW moves each weight of the trunk by a twentieth of its
# size per step: random initialisation then does better, and a pretrained start no better than it
# (docs/benchmarks.md).
optimizer.lr = 3e-4
train.clip_grad.norm = 1.0
train.max_iter = 450
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.0),
    warmup_factor=0.02,
    warmup_length=0.1,
    warmup_method="linear",
)

# --- bookkeeping
train.eval_period = 0  # at the end
train.checkpointer.period = 100
train.output_dir = "output/quickstart/mask_rcnn_R_18_coral_random"
