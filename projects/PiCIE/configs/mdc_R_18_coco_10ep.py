r"""MDC, modified DeepCluster, ResNet-18, curated COCO, 10 epochs, 27 clusters: PiCIE's baseline.

    tools/lazyconfig_train_net.py --config-file projects/PiCIE/configs/mdc_R_18_coco_10ep.py \
        train.init_checkpoint=torchvision-resnet18.pth

Paper: 9.79 mIoU, 32.21 accuracy (not verified in a source); the authors' logs end at 4.6 and 8.4 mIoU, with
best epochs of 11.4 and 13.5. Cost, theirs: 9 to 12 hours, GPU not stated. Here: not run at full length.
"""

from ....configs.common.models.mdc import model
from .picie_R_18_coco_10ep import dataloader, lr_multiplier, optimizer, train

# the classifier has the network's rate (sh_files/train_mdc.sh, train_mdc.py:193-205)
train.output_dir = "output/mdc_R_18_coco_10ep"
