"""Mask R-CNN R50-FPN on COCO, 1x, box head of four convolutions and one fully connected layer, SyncBN.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

The variant of DenseCL (benchmarks/detection/configs/R_50_FPN_1x_infomin.yaml over R_50_FPN_1x.yaml) and
InfoMin: SyncBN also in box and mask head. Its numbers do not compare with those of the 2fc variant.
DenseCL's abstract: 1.1 box AP and 0.9 mask AP above MoCo-v2 (COCO pretraining). Not run at full length here.
"""

from detectron2.layers import ShapeSpec

from .mask_rcnn_R_50_FPN_1x_2fc import dataloader, lr_multiplier, model, optimizer, train

# R_50_FPN_1x.yaml: ROI_BOX_HEAD FastRCNNConvFCHead, NUM_CONV 4, NUM_FC 1, NORM SyncBN; ROI_MASK_HEAD.NORM
model.roi_heads.box_head.conv_dims = [256, 256, 256, 256]
model.roi_heads.box_head.conv_norm = "SyncBN"
model.roi_heads.box_head.fc_dims = [1024]
model.roi_heads.box_predictor.input_shape = ShapeSpec(channels=1024)
model.roi_heads.mask_head.conv_norm = "SyncBN"

# --- bookkeeping
train.output_dir = "output/mask_rcnn_R_50_FPN_1x_4conv1fc"
