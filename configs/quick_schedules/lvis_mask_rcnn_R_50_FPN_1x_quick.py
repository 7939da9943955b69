"""CPU-sized twin of configs/LVIS-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py: 10 iterations.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/lvis_mask_rcnn_R_50_FPN_1x_quick.py

On `coral` with annotations as LVIS makes them: `python datasets/prepare_coral_lvis.py`.
"""

from densessl.config import get_config

from ..common.quick_detection import shrink_detection

# a folder with a hyphen cannot be imported from
_recipe = get_config("LVIS-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
dataloader, model, optimizer = _recipe.dataloader, _recipe.model, _recipe.optimizer
lr_multiplier, train = _recipe.lr_multiplier, _recipe.train

_evaluator = dataloader.evaluator
shrink_detection(model, dataloader, train)
dataloader.evaluator = _evaluator
dataloader.train.dataset.names = "coral_lvis_train"
dataloader.train.repeat_threshold = 0.5  # classes in fewer than half of the tiles are repeated
dataloader.test.dataset.names = "coral_lvis_val"
model.roi_heads.box_predictor.test_score_thresh = 0.05
optimizer.lr = 1e-3
train.output_dir = "output/quick/lvis_mask_rcnn_R_50_FPN_1x"
