"""Faster R-CNN R50-C4 on VOC 07+12, 24k iterations, with the extra norm.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 train.init_checkpoint=PRETRAINED

The detection protocol of MoCo and DenseCL (benchmarks/detection/configs/pascal_voc_R_50_C4_24k_moco.yaml).
Papers give the mean of five runs; deviation about 0.2 AP50, 0.2 AP, 0.4 AP75. AP of MoCo-v2 and DenseCL:
54.7 and 56.7 (COCO, 800 epochs), 57.0 and 58.7 (ImageNet, 200 epochs). The originals also
re-estimate the batch statistics on 200 batches before testing (PRECISE_BN); that is not done here. Not run at
full length here.
"""

from ..common.data.voc_0712 import dataloader
from ..common.models.faster_rcnn_c4_extra_norm import model
from ..common.optim import SGD as optimizer
from ..common.schedule import multistep
from ..common.train import train

# pascal_voc_R_50_C4_24k.yaml: lr 0.02 at batch 16, a tenth at 18k and 22k, 100 iterations of warm-up from a
# thousandth; weight decay 1e-4 and none for norms (detectron2's default)
optimizer.lr = 0.02
optimizer.weight_decay = 1e-4
optimizer.params.weight_decay_norm = 0.0
lr_multiplier, train.max_iter = multistep(max_iter=24000, milestones=(18000, 22000), warmup_iters=100)
