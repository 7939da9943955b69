"""Mask R-CNN R50-C4 on COCO, 1x, with the extra norm: half the iterations of the 2x recipe, see there.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Source: mmselfsup configs/benchmarks/detectron2/coco_R_50_C4_1x_moco.yaml. Not run at full length here.
"""

from ..common.schedule import multistep
from .mask_rcnn_R_50_C4_2x import dataloader, model, optimizer, train

lr_multiplier, train.max_iter = multistep(max_iter=90000, milestones=(60000, 80000), warmup_iters=1000)

# --- bookkeeping
train.output_dir = "output/mask_rcnn_R_50_C4_1x"
