r"""MoCo v2, ResNet-50, ImageNet-1k, 200 epochs.

    tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file projects/DenseCL/configs/moco_v2_R_50_imagenet_200ep.py

Published: 67.7 % top-1 linear (67.5 +- 0.1 over runs), 57.0 AP on VOC07+12 detection (facebookresearch/moco
README.md and detection/README.md). Cost: 53 hours on 8 V100 (paper, Table 3). Here: not run at full length.
Source of each number: facebookresearch/moco main_moco.py at 132aea9, with the README's
`--mlp --moco-t 0.2 --aug-plus --cos`.
"""

from ....configs.common.data.imagenet_two_view import dataloader
from ....configs.common.models.moco import model
from ....configs.common.optim import SGD as optimizer
from ....configs.common.schedule import cosine
from ....configs.common.train import train

# --- changes results
model.dataset_size = 1281167  # images of train
model.backbone.init = "fan_out"  # torchvision's ResNet and PyTorch's Linear: moco/builder.py:41-63
model.projection_head.init = "default"
model.queue_size = 65536  # --moco-k
model.momentum = 0.999  # --moco-m
model.temperature = 0.2  # --moco-t
dataloader.train.total_batch_size = 256  # --batch-size, over 8 GPUs
optimizer.lr = 0.03  # --lr
optimizer.momentum = 0.9  # --momentum
optimizer.weight_decay = 1e-4  # --wd, of all parameters
# --cos: adjust_learning_rate once per epoch
lr_multiplier, train.max_iter = cosine(epochs=200, images=1281167, batch=256)

# --- bookkeeping
train.checkpointer.period = 5004  # one epoch, as the authors
train.output_dir = "output/moco_v2_R_50_imagenet_200ep"
