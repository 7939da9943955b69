"""Faster R-CNN R50-C4 on VOC 07+12, 24k iterations: faster_rcnn_R_50_C4_24k.py with VISSL's warm-up of 1000.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Source: VISSL
configs/config/benchmark/object_detection/voc0712/mocoV2/rn50_transfer_voc0712_detectron2_e2e.yaml
(WARMUP_ITERS 1000, all else equal). Not run at full length here.
"""

from ..common.schedule import multistep
from .faster_rcnn_R_50_C4_24k import dataloader, model, optimizer, train

lr_multiplier, train.max_iter = multistep(max_iter=24000, milestones=(18000, 22000), warmup_iters=1000)

# --- bookkeeping
train.output_dir = "output/faster_rcnn_R_50_C4_24k_warmup1000"
