"""Makes a detection recipe CPU-sized: same model, pipeline and form of schedule, few pixels and regions."""

from detectron2.config import LazyCall as L

from densessl.evaluation.coco_evaluation import COCOEvaluator


def shrink_detection(model, dataloader, train):
    """Tiles of the `coral` sample at about 128 pixels, batch 2, 10 iterations, precise BN on 2 batches.

    Build the sample with `python datasets/prepare_coral.py`.
    """
    model.proposal_generator.pre_nms_topk = (200, 100)
    model.proposal_generator.post_nms_topk = (50, 20)
    model.proposal_generator.batch_size_per_image = 32
    model.roi_heads.batch_size_per_image = 8
    model.roi_heads.num_classes = 4
    dataloader.train.dataset.names = "coral_train"
    dataloader.train.mapper.augmentations[0].short_edge_length = (112, 128)
    dataloader.train.mapper.instance_mask_format = "bitmask"
    dataloader.train.total_batch_size = 2
    dataloader.train.num_workers = 0
    dataloader.test.dataset.names = "coral_val"
    dataloader.test.mapper.augmentations[0].short_edge_length = 128
    dataloader.test.num_workers = 0
    tasks = ("bbox", "segm") if dataloader.train.mapper.use_instance_mask else ("bbox",)
    dataloader.evaluator = L(COCOEvaluator)(
        dataset_name="coral_val", tasks=tasks, output_dir="${train.output_dir}/inference"
    )
    train.device = "cpu"
    train.amp.enabled = False
    train.max_iter = 10
    train.log_period = 2
    train.eval_period = 0
    train.hooks[0].num_iter = 2
    train.checkpointer.period = 5
