"""Two views of your own images: dataloader.train.dataset.source=PATH (folder, list, LMDB, tar shards)."""

from .imagenet_two_view import dataloader

dataloader.train.dataset.source = "???"
