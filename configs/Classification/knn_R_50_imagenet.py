r"""Nearest neighbours of ImageNet-1k validation images among the training images, by a frozen ResNet-50.

    tools/lazyconfig_train_net.py --config-file <this> --num-gpus 8 --eval-only \
        train.init_checkpoint=PRETRAINED

Published top-1 for k = 10, 20, 100, 200 (mmselfsup 1.0.0, ImageNet, 200 epochs): DenseCL 48.2 48.5 46.8 45.6,
MoCo v2 55.6 55.7 53.7 52.5. Here: not run at full length. Each rank holds the features of its share of the
images, 10.5 GB in all. There is nothing to train; the optimiser below is not used.
Source: mmselfsup configs/benchmarks/classification/knn_imagenet.py,
tools/benchmarks/classification/knn_imagenet.
"""

from ..common.data.imagenet_knn import dataloader
from ..common.models.pooled_features import model
from ..common.optim import SGD as optimizer
from ..common.schedule import cosine
from ..common.train import train

lr_multiplier, _ = cosine(epochs=1, images=1, batch=1)
train.output_dir = "output/knn_R_50_imagenet"
