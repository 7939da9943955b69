"""Mask R-CNN R50-FPN on COCO, 2x, 4conv1fc head: twice the iterations of the 1x recipe, see there.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Schedule of detectron2's 2x. Not run at full length here.
"""

from .mask_rcnn_R_50_FPN_1x_4conv1fc import dataloader, model, optimizer
from .mask_rcnn_R_50_FPN_2x_2fc import lr_multiplier, train

# --- bookkeeping
train.output_dir = "output/mask_rcnn_R_50_FPN_2x_4conv1fc"
