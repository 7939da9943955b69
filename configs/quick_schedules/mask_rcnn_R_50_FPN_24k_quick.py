"""CPU-sized twin of configs/Cityscapes/mask_rcnn_R_50_FPN_24k.py: 10 iterations.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/mask_rcnn_R_50_FPN_24k_quick.py

Cityscapes is not at hand everywhere, so `coral` stands in, with COCO's AP.
"""

from densessl.config import get_config

from ..common.quick_detection import shrink_detection

_recipe = get_config("Cityscapes/mask_rcnn_R_50_FPN_24k.py")
dataloader, model, optimizer = _recipe.dataloader, _recipe.model, _recipe.optimizer
lr_multiplier, train = _recipe.lr_multiplier, _recipe.train

shrink_detection(model, dataloader, train)
optimizer.lr = 1e-3
train.output_dir = "output/quick/mask_rcnn_R_50_FPN_24k"
