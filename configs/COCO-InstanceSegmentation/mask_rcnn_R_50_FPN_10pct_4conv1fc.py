"""Mask R-CNN R50-FPN on 10 % of COCO's training images, box head 4conv1fc, SyncBN.

    python datasets/prepare_coco_subset.py --percent 10
    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

The semi-supervised comparison of the DenseCL paper. Its data set is named in the authors'
benchmarks/detection/train_net.py:13-14 (coco_2017_train_0.1), but neither the list of images nor the config
was ever released (DenseCL issue 17): this is another 10 %, so figures do not compare exactly with the
paper's. Other draws: coco_2017_train_10pct_seed1 to _seed4; other shares: coco_2017_train_1pct, _2pct, _5pct.
The schedule is the 1x of the whole set, 90k iterations or 122 passes over 11,829 images: our choice, the
authors' is not known. Not run at full length here.
"""

from .mask_rcnn_R_50_FPN_1x_4conv1fc import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset.names = "coco_2017_train_10pct"

# --- bookkeeping
train.output_dir = "output/mask_rcnn_R_50_FPN_10pct_4conv1fc"
