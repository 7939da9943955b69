r"""MDC, modified DeepCluster, ResNet-18, Cityscapes test and train_extra, 10 epochs: PiCIE's baseline.

    tools/lazyconfig_train_net.py --config-file projects/PiCIE/configs/mdc_R_18_cityscapes_10ep.py \
        train.init_checkpoint=torchvision-resnet18.pth

Paper: 7.06 mIoU, 40.67 accuracy (not verified in a source); the authors' log ends at 6.7 and 44.4. Cost,
theirs: 12 hours, GPU not stated. Here: not run at full length.
"""

from ....configs.common.models.mdc import model
from .picie_R_18_cityscapes_10ep import dataloader, lr_multiplier, optimizer, train

train.hooks[0].init_batches = 30  # sh_files/train_mdc_cityscapes.sh: 256/30/1/30
train.hooks[0].init_iterations = 30
train.output_dir = "output/mdc_R_18_cityscapes_10ep"
