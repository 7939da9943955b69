"""Faster R-CNN R101-C4 on VOC 07+12: faster_rcnn_R_50_C4_24k.py with 101 layers.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

Source: DenseCL benchmarks/detection/configs/pascal_voc_R_101_C4_24k_moco.yaml. AP of DenseCL (README, mean of
five runs, ImageNet 200 epochs): 61.3. Not run at full length here.
"""

from .faster_rcnn_R_50_C4_24k import dataloader, lr_multiplier, model, optimizer, train

model.backbone.depth = 101  # res5, in the head, has three blocks in both depths

# --- bookkeeping
train.output_dir = "output/faster_rcnn_R_101_C4_24k"
