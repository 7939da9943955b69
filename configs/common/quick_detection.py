"""Makes a detection recipe CPU-sized: same model, pipeline and form of schedule, few pixels and regions."""

from detectron2.config import LazyCall as L

from densessl.evaluation.coco_evaluation import COCOEvaluator


def shrink_detection(model, dataloader, train):
    """Tiles of the `coral` sample at about 128 pixels, batch 2, 10 iterations, precise BN on 2 batches.

    Build the sample with `python datasets/prepare_coral.py`.
    """
    _shrink(model, dataloader, train)
    if "roi_heads" in model:
        model.roi_heads.num_classes = 4
    else:
        model.num_classes = 4
    dataloader.train.dataset.names = "coral_train"
    dataloader.train.mapper.instance_mask_format = "bitmask"
    dataloader.test.dataset.names = "coral_val"
    tasks = ("bbox", "segm") if dataloader.train.mapper.use_instance_mask else ("bbox",)
    dataloader.evaluator = L(COCOEvaluator)(
        dataset_name="coral_val", tasks=tasks, output_dir="${train.output_dir}/inference"
    )


def shrink_keypoint_detection(model, dataloader, train):
    """As `shrink_detection`, on the 100 pictures of COCO that detectron2 tests its keypoint models on.

    Their annotations, person_keypoints_val2017_100.json, come with detectron2's datasets/prepare_for_tests.sh.
    """
    _shrink(model, dataloader, train)
    dataloader.train.dataset.names = "keypoints_coco_2017_val_100"
    dataloader.test.dataset.names = "keypoints_coco_2017_val_100"


def _shrink(model, dataloader, train):
    """Few pixels, proposals and regions."""
    if "proposal_generator" in model:
        model.proposal_generator.pre_nms_topk = (200, 100)
        model.proposal_generator.post_nms_topk = (50, 20)
        model.proposal_generator.batch_size_per_image = 32
        model.roi_heads.batch_size_per_image = 8
    dataloader.train.mapper.augmentations[0].short_edge_length = (112, 128)
    dataloader.train.total_batch_size = 2
    dataloader.train.num_workers = 0
    dataloader.test.mapper.augmentations[0].short_edge_length = 128
    dataloader.test.num_workers = 0
    train.device = "cpu"
    train.amp.enabled = False
    train.max_iter = 10
    train.log_period = 2
    train.eval_period = 0
    for hook in train.hooks:  # PreciseBNHook, or none
        hook.num_iter = 2
    train.checkpointer.period = 5
