"""Two views of your own images: a folder, list file, LMDB or tar shards (`dataloader.train.dataset.source`)."""

from .imagenet_two_view import dataloader

dataloader.train.dataset.source = "???"
