"""CPU-sized twin of configs/PascalVOC-Detection/faster_rcnn_R_50_C4_24k_warmup1000.py: 10 iterations.

tools/lazyconfig_train_net.py \\
    --config-file configs/quick_schedules/faster_rcnn_R_50_C4_24k_warmup1000_quick.py

VOC is not at hand everywhere, so the boxes of `coral` stand in, with COCO's AP.
"""

from densessl.config import get_config

from ..common.quick_detection import shrink_detection

# a folder with a hyphen cannot be imported from
_recipe = get_config("PascalVOC-Detection/faster_rcnn_R_50_C4_24k_warmup1000.py")
dataloader, model, optimizer = _recipe.dataloader, _recipe.model, _recipe.optimizer
lr_multiplier, train = _recipe.lr_multiplier, _recipe.train

shrink_detection(model, dataloader, train)
optimizer.lr = 1e-3
train.output_dir = "output/quick/faster_rcnn_R_50_C4_24k_warmup1000"
