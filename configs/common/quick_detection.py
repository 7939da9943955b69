"""Makes a detection recipe CPU-sized: same architecture, pipeline and form of schedule, everything small."""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import BasicBlock

from densessl.evaluation.coco_evaluation import COCOEvaluator


def shrink_detection(model, dataloader, train):
    """ResNet-18 on tiles of the `coral` sample at about 128 pixels, batch 2, 10 iterations.

    Precise BN takes 2 batches. A checkpoint of a pretraining twin fits as train.init_checkpoint. Build the
    sample with `python datasets/prepare_coral.py`.
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

    Their annotations, person_keypoints_val2017_100.json, come with detectron2's
    datasets/prepare_for_tests.sh.
    """
    _shrink(model, dataloader, train)
    dataloader.train.dataset.names = "keypoints_coco_2017_val_100"
    dataloader.test.dataset.names = "keypoints_coco_2017_val_100"


def _shrink(model, dataloader, train):
    """Few layers, pixels, proposals and regions."""
    if "bottom_up" in model.backbone:
        model.backbone.bottom_up.depth = 18
        if "in_channels" in model.backbone.top_block:
            reads_p5 = model.backbone.top_block.get("in_feature") == "p5"
            model.backbone.top_block.in_channels = model.backbone.out_channels if reads_p5 else 512
    else:
        _shrink_c4(model)
    if "proposal_generator" in model:
        model.proposal_generator.pre_nms_topk = (200, 100)
        model.proposal_generator.post_nms_topk = (50, 20)
        model.proposal_generator.batch_size_per_image = 32
        model.roi_heads.batch_size_per_image = 8
        _shrink_heads(model.roi_heads)
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


def _shrink_c4(model):
    """ResNet-18's stages, whose last one has two blocks of two convolutions."""
    model.backbone.depth = 18
    model.proposal_generator.head.in_channels = 256
    stage = model.roi_heads.res5
    stage.update(block_class=BasicBlock, num_blocks=2, stride_per_block=[2, 1])
    stage.update(in_channels=256, out_channels=512)
    del stage["bottleneck_channels"], stage["stride_in_1x1"]


def _shrink_heads(roi_heads):
    """Most parameters of a detector are in these layers."""
    if "box_head" in roi_heads:
        roi_heads.box_head.fc_dims = [64 for _ in roi_heads.box_head.fc_dims]
        roi_heads.box_predictor.input_shape = ShapeSpec(channels=64)
    if "keypoint_head" in roi_heads:
        roi_heads.keypoint_head.conv_dims = [64 for _ in roi_heads.keypoint_head.conv_dims]
