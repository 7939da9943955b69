r"""CPU-sized twin of configs/Classification/knn_R_50_imagenet.py: an evaluation in seconds.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/knn_R_50_imagenet_quick.py --eval-only \
    train.init_checkpoint=output/quick/densecl_R_50_coco_800ep/model_final.pth
"""

from ..Classification.knn_R_50_imagenet import dataloader, lr_multiplier, model, optimizer, train
from ..common.quick_classification import shrink_classification

shrink_classification(model, dataloader, train)
train.output_dir = "output/quick/knn_R_50_imagenet"
