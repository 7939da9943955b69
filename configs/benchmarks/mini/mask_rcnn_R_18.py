"""The fine-tuning of the miniature benchmark: a small Mask R-CNN on 200 annotated pictures of `cutpaste`.

    tools/lazyconfig_train_net.py --config-file configs/benchmarks/mini/mask_rcnn_R_18.py

Pretraining sees all of cutpaste_train without labels; with all labels at hand the detector needs no
pretraining (docs/benchmarks.md).
"""

from detectron2.config import LazyCall as L

from densessl.data.datasets.subset import labelled_subset

from ...quickstart.mask_rcnn_R_18_cutpaste_random import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.dataset = L(labelled_subset)(names="cutpaste_train", count=200)
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 4
train.max_iter = 400
train.checkpointer.period = 200
train.output_dir = "output/benchmarks/mask_rcnn_R_18"
