"""CPU-sized twin of configs/PascalVOC-Detection/faster_rcnn_R_50_C4_25k_frozen_bn.py: 10 iterations.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/faster_rcnn_R_50_C4_25k_frozen_bn_quick.py

VOC is not at hand everywhere, so the boxes of `coral` stand in, with COCO's AP.
"""

from densessl.config import get_config

from ..common.quick_detection import shrink_detection

# a folder with a hyphen cannot be imported from
_recipe = get_config("PascalVOC-Detection/faster_rcnn_R_50_C4_25k_frozen_bn.py")
dataloader, model, optimizer = _recipe.dataloader, _recipe.model, _recipe.optimizer
lr_multiplier, train = _recipe.lr_multiplier, _recipe.train

shrink_detection(model, dataloader, train)
# without pretrained weights activations grow from block to frozen block: start them as identities
model.backbone.zero_init_residual = True
optimizer.lr = 1e-3
train.output_dir = "output/quick/faster_rcnn_R_50_C4_25k_frozen_bn"
