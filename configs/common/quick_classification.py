"""Makes a classification recipe CPU-sized: same protocol, a small trunk, few small images and classes."""


def shrink_classification(model, dataloader, train):
    """ResNet-18, 64-pixel crops, batch 8, 10 iterations on the `textures` sample.

    Build it with `python datasets/prepare_textures.py`.
    """
    model.backbone.depth = 18
    model.backbone.norm = "BN"  # SyncBN needs a GPU
    if "norm" in model:
        model.norm = "BN"
        model.pooling = "adaptive"
    if "reference" in dataloader.test.dataset:
        dataloader.test.dataset.reference.source = "textures_train"
        dataloader.test.dataset.query.source = "textures_val"
        dataloader.evaluator.k = (1, 5)
    else:
        model.num_classes = 4
        dataloader.train.dataset.source = "textures_train"
        dataloader.test.dataset.source = "textures_val"
        dataloader.train.mapper.crop_size = 64
        dataloader.train.total_batch_size = 8
        dataloader.train.num_workers = 0
    dataloader.test.mapper.short_edge = 72
    dataloader.test.mapper.crop_size = 64
    dataloader.test.batch_size = 16
    dataloader.test.num_workers = 0
    train.device = "cpu"
    train.amp.enabled = False
    train.max_iter = 10
    train.log_period = 2
    train.eval_period = 0
    train.checkpointer.period = 5
