"""CPU-sized twin of configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_10pct_4conv1fc.py: 10 iterations.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/mask_rcnn_R_50_FPN_10pct_4conv1fc_quick.py
"""

from densessl.config import get_config

from ..common.quick_detection import shrink_detection

# a folder with a hyphen cannot be imported from
_recipe = get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_10pct_4conv1fc.py")
dataloader, model, optimizer = _recipe.dataloader, _recipe.model, _recipe.optimizer
lr_multiplier, train = _recipe.lr_multiplier, _recipe.train

shrink_detection(model, dataloader, train)
optimizer.lr = 1e-3
train.output_dir = "output/quick/mask_rcnn_R_50_FPN_10pct_4conv1fc"
