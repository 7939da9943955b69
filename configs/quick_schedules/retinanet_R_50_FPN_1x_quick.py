"""CPU-sized twin of configs/COCO-Detection/retinanet_R_50_FPN_1x.py: 10 iterations.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/retinanet_R_50_FPN_1x_quick.py
"""

from densessl.config import get_config

from ..common.quick_detection import shrink_detection

# a folder with a hyphen cannot be imported from
_recipe = get_config("COCO-Detection/retinanet_R_50_FPN_1x.py")
dataloader, model, optimizer = _recipe.dataloader, _recipe.model, _recipe.optimizer
lr_multiplier, train = _recipe.lr_multiplier, _recipe.train

shrink_detection(model, dataloader, train)
optimizer.lr = 1e-3
train.output_dir = "output/quick/retinanet_R_50_FPN_1x"
