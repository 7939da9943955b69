"""Makes a pretraining recipe CPU-sized: same method, data pipeline and schedule, everything small."""


def shrink_pretraining(model, dataloader, train):
    """ResNet-18, 64-pixel crops, batch 8, 10 iterations on the `coral` sample's training tiles.

    Build these with `python datasets/prepare_coral.py`, or give dataloader.train.dataset.source=FOLDER.
    """
    model.backbone.depth = 18
    model.backbone.norm = "BN"  # SyncBN needs a GPU
    model.projection_head.in_channels = 512
    if "queue_size" in model:
        model.projection_head.hidden_channels = 64
        model.queue_size = 64
        model.dataset_size = None
    else:
        model.projection_head.out_channels = 64
        model.prediction_head.hidden_channels = 16
    dataloader.train.dataset.source = "coral_train"
    dataloader.train.mapper.crop_size = 64
    dataloader.train.total_batch_size = 8
    dataloader.train.num_workers = 0
    train.device = "cpu"
    train.amp.enabled = False
    train.max_iter = 10
    train.log_period = 2
    train.checkpointer.period = 5
