"""CPU-sized twin of configs/COCO-Keypoints/keypoint_rcnn_R_50_FPN_2x.py: 10 iterations.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/keypoint_rcnn_R_50_FPN_2x_quick.py

On persons of COCO: see `shrink_keypoint_detection`.
"""

from densessl.config import get_config

from ..common.quick_detection import shrink_keypoint_detection

# a folder with a hyphen cannot be imported from
_recipe = get_config("COCO-Keypoints/keypoint_rcnn_R_50_FPN_2x.py")
dataloader, model, optimizer = _recipe.dataloader, _recipe.model, _recipe.optimizer
lr_multiplier, train = _recipe.lr_multiplier, _recipe.train

shrink_keypoint_detection(model, dataloader, train)
optimizer.lr = 1e-3
train.output_dir = "output/quick/keypoint_rcnn_R_50_FPN_2x"
