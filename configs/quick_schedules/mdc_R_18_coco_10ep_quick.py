"""CPU-sized twin of projects/PiCIE/configs/mdc_R_18_coco_10ep.py: 10 iterations in seconds.

tools/lazyconfig_train_net.py --config-file configs/quick_schedules/mdc_R_18_coco_10ep_quick.py
"""

from ...projects.PiCIE.configs.mdc_R_18_coco_10ep import dataloader, lr_multiplier, model, optimizer, train
from ..common.quick_clustering import shrink_clustering

shrink_clustering(model, dataloader, train)
train.output_dir = "output/quick/mdc_R_18_coco_10ep"
