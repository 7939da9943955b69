"""Mask R-CNN R50-FPN on LVIS v1, 1x, standard box head, SyncBN in trunk and pyramid.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

detectron2's configs/LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml with the trunk and norms by which
self-supervised weights are compared on COCO (mask_rcnn_R_50_FPN_1x_2fc.py there). No figure is published for
these norms; detectron2's yaml starts from supervised ImageNet weights. Not run at full length here.
"""

from detectron2.config import LazyCall as L

from densessl.engine.precise_bn import PreciseBNHook

from ..common.data.lvis_instance import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

# the yaml: NUM_CLASSES 1203, SCORE_THRESH_TEST 0.0001, DETECTIONS_PER_IMAGE 300
model.roi_heads.num_classes = 1203
model.roi_heads.box_predictor.test_score_thresh = 1e-4
model.roi_heads.box_predictor.test_topk_per_image = 300
# the yaml: STEPS (120000, 160000), MAX_ITER 180000; Base-RCNN-FPN.yaml and defaults.py: lr 0.02 at batch 16,
# 1000 of warm-up, weight decay 1e-4 and none for norms
optimizer.lr = 0.02
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = 0.0
lr_multiplier, train.max_iter = multistep(max_iter=180000, milestones=(120000, 160000), warmup_iters=1000)
# as on COCO; TEST.PRECISE_BN.NUM_ITER = 200
train.hooks = [L(PreciseBNHook)(period="${train.eval_period}", num_iter=200)]

# --- bookkeeping
train.output_dir = "output/mask_rcnn_R_50_FPN_1x"
