"""CPU-sized twin of projects/PiCIE/configs/picie_R_18_coco_10ep.py: 10 iterations in seconds.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/picie_R_18_coco_10ep_quick.py
"""

from ...projects.PiCIE.configs.picie_R_18_coco_10ep import dataloader, lr_multiplier, model, optimizer, train
from ..common.quick_clustering import shrink_clustering

shrink_clustering(model, dataloader, train)
train.output_dir = "output/quick/picie_R_18_coco_10ep"
