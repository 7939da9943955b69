r"""PiCIE, ResNet-18, curated COCO, 10 epochs, 27 clusters.

    tools/lazyconfig_train_net.py --config-file projects/PiCIE/configs/picie_R_18_coco_10ep.py \
        train.init_checkpoint=torchvision-resnet18.pth

Paper: 13.84 mIoU, 48.09 accuracy (as quoted in the authors' issue 3); the authors' logs end at 14.8 to 15.2
mIoU and 50.3 to 51.6 accuracy. Cost, theirs: 13 to 20 hours, GPU not stated. Here: not run at full length.
"""

from detectron2.config import LazyCall as L

from densessl.engine.cluster_hook import ClusterHook

from ....configs.common.data.coco_stuff_27 import dataloader
from ....configs.common.models.picie import model
from ....configs.common.optim import Adam as optimizer
from ....configs.common.schedule import constant
from ....configs.common.train import train

optimizer.lr = 1e-4  # sh_files/train_picie.sh; weight decay is ignored by their Adam (commons.py:27-29)
# 49629 // 128 = 387 iterations per epoch; theirs are 388, the last one of 93 images
lr_multiplier, train.max_iter = constant(epochs=10, images=49629, batch=128)
train.hooks = [
    L(ClusterHook)(
        batch_size=256,  # --batch_size_cluster
        init_batches=20,  # --num_init_batches
        batches_per_update=1,  # --num_batches
        init_iterations=20,  # --kmeans_n_iter
        points_per_image=51,  # of 6400, for the initial clustering; null: all, 16.8 GB of host memory
        batch_norm="train",  # since commit 195c339; eval: logs/picie*.out
        num_workers="${dataloader.train.num_workers}",
    )
]
train.init_checkpoint = ""  # ImageNet-supervised weights, torchvision's resnet18 as it is
train.seed = 1
train.eval_period = 387  # each epoch, with the centroids from its start, as the authors
train.checkpointer.period = 387
train.output_dir = "output/picie_R_18_coco_10ep"
