"""Makes an unsupervised segmentation recipe CPU-sized: same method and clustering, everything small."""

from detectron2.config import LazyCall as L

from densessl.data.sources import build_image_source


def shrink_clustering(model, dataloader, train):
    """128-pixel squares, 8 clusters, batch 4, 10 iterations on the `coral` sample's training tiles.

    Build these with `python datasets/prepare_coral.py`, or give dataloader.train.dataset.source=FOLDER. There
    is no evaluation: the sample has no labels of pixels.
    """
    model.num_clusters = 8
    model.resolution = 64  # the last stage then has 2 x 2 cells, so that one image has statistics
    dataloader.train.dataset = L(build_image_source)(source="coral_train")
    dataloader.train.mapper.size = 128
    dataloader.train.total_batch_size = 4
    dataloader.train.num_workers = 0
    del dataloader["test"], dataloader["evaluator"]
    train.hooks[0].batch_size = 8
    train.hooks[0].init_batches = 2
    train.device = "cpu"
    train.amp.enabled = False
    train.max_iter = 10
    train.log_period = 2
    train.checkpointer.period = 5
