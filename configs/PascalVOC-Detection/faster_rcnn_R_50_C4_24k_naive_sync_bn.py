"""Faster R-CNN R50-C4 on VOC 07+12, 24k iterations: faster_rcnn_R_50_C4_24k.py with MoCo's norm, naiveSyncBN.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

MoCo changed from SyncBN to it in d00ef73 (detection/configs/Base-RCNN-C4-BN.yaml), whose comment says that
SyncBN gives larger variance. Its table, mean of five runs, AP50 / AP / AP75 (detection/README.md): supervised
81.3 / 53.5 / 58.8, MoCo v1 200 epochs 81.5 / 55.9 / 62.6, v2 200 epochs 82.4 / 57.0 / 63.6, v2 800 epochs
82.5 / 57.4 / 64.0. Not run at full length here.
"""

from .faster_rcnn_R_50_C4_24k import dataloader, lr_multiplier, model, optimizer, train

# one setting there, MODEL.RESNETS.NORM: trunk, res5 of the head, and the extra norm
model.backbone.norm = "naiveSyncBN"
model.roi_heads.norm = "naiveSyncBN"

# --- bookkeeping
train.output_dir = "output/faster_rcnn_R_50_C4_24k_naive_sync_bn"
