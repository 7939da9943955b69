"""Each detection recipe against its original YAML: same model, augmentation and schedule, number by number.

The originals' values stand here as pairs; detectron2's own defaults fill the rest, as they did there.
detectron2 builds the model from them, and every number and name in its modules is compared with ours.
"""

from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import build_augmentation
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.solver import build_lr_scheduler, get_default_optimizer_params
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from densessl.config import load_config

ROOT = Path(__file__).parents[1] / "configs"
# mmselfsup configs/benchmarks/detectron2 (M.), the same in DenseCL benchmarks/detection/configs (D.)
RGB = """MODEL.PIXEL_MEAN [123.675,116.280,103.530] MODEL.PIXEL_STD [58.395,57.120,57.375] INPUT.FORMAT RGB
    MODEL.RESNETS.STRIDE_IN_1X1 False"""  # the last part of every *_moco.yaml
C4 = """MODEL.RPN.PRE_NMS_TOPK_TEST 6000 MODEL.RPN.POST_NMS_TOPK_TEST 1000 MODEL.ROI_HEADS.NAME Res5ROIHeads
    SOLVER.IMS_PER_BATCH 16 SOLVER.BASE_LR 0.02"""
C4_BN = f"""{C4} MODEL.BACKBONE.FREEZE_AT 0 MODEL.RESNETS.NORM SyncBN TEST.PRECISE_BN.ENABLED True"""
COCO = """DATASETS.TRAIN ("coco_2017_train",) DATASETS.TEST ("coco_2017_val",)
    INPUT.MIN_SIZE_TRAIN (640,672,704,736,768,800)"""
ONE = "SOLVER.STEPS (60000,80000) SOLVER.MAX_ITER 90000"
TWO = "SOLVER.STEPS (120000,160000) SOLVER.MAX_ITER 180000"
VOC = f"""MODEL.MASK_ON False MODEL.ROI_HEADS.NUM_CLASSES 20 INPUT.MIN_SIZE_TEST 800 {RGB}
    INPUT.MIN_SIZE_TRAIN (480,512,544,576,608,640,672,704,736,768,800)
    DATASETS.TRAIN ("voc_2007_trainval","voc_2012_trainval") DATASETS.TEST ("voc_2007_test",)"""
VOC_24K = "SOLVER.STEPS (18000,22000) SOLVER.MAX_ITER 24000 SOLVER.WARMUP_ITERS 100"
PYRAMID = """MODEL.BACKBONE.FREEZE_AT 0 MODEL.RESNETS.NORM SyncBN MODEL.FPN.NORM SyncBN
    TEST.PRECISE_BN.ENABLED True"""
FPN = f"""MODEL.BACKBONE.NAME build_resnet_fpn_backbone {PYRAMID} SOLVER.IMS_PER_BATCH 16 SOLVER.BASE_LR 0.02
    MODEL.RESNETS.OUT_FEATURES ["res2","res3","res4","res5"]
    MODEL.FPN.IN_FEATURES ["res2","res3","res4","res5"]
    MODEL.ANCHOR_GENERATOR.SIZES [[32],[64],[128],[256],[512]]
    MODEL.RPN.IN_FEATURES ["p2","p3","p4","p5","p6"]
    MODEL.RPN.PRE_NMS_TOPK_TRAIN 2000 MODEL.RPN.PRE_NMS_TOPK_TEST 1000 MODEL.RPN.POST_NMS_TOPK_TRAIN 1000
    MODEL.RPN.POST_NMS_TOPK_TEST 1000 MODEL.ROI_HEADS.NAME StandardROIHeads
    MODEL.ROI_HEADS.IN_FEATURES ["p2","p3","p4","p5"] MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead
    MODEL.ROI_BOX_HEAD.NUM_FC 2 MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 7 MODEL.ROI_MASK_HEAD.NUM_CONV 4
    MODEL.ROI_MASK_HEAD.NAME MaskRCNNConvUpsampleHead MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION 14"""
MASK_FPN = f"{FPN} {COCO} {RGB} MODEL.MASK_ON True"
INFOMIN = """MODEL.ROI_BOX_HEAD.NUM_CONV 4 MODEL.ROI_BOX_HEAD.NUM_FC 1 MODEL.ROI_BOX_HEAD.NORM SyncBN
    MODEL.ROI_MASK_HEAD.NORM SyncBN"""  # D. R_50_FPN_1x.yaml
SIZES = [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]
DENSE = f"""{PYRAMID} {COCO} {RGB} SOLVER.IMS_PER_BATCH 16 SOLVER.BASE_LR 0.01
    MODEL.RESNETS.OUT_FEATURES ["res3","res4","res5"] MODEL.FPN.IN_FEATURES ["res3","res4","res5"]"""
RETINANET = f"""{DENSE} MODEL.META_ARCHITECTURE RetinaNet MODEL.RETINANET.SMOOTH_L1_LOSS_BETA 0.0
    MODEL.BACKBONE.NAME build_retinanet_resnet_fpn_backbone MODEL.RETINANET.IOU_LABELS [0,-1,1]
    MODEL.RETINANET.IOU_THRESHOLDS [0.4,0.5]"""
KEYPOINT = f"""{FPN} {RGB} MODEL.KEYPOINT_ON True MODEL.ROI_HEADS.NUM_CLASSES 1
    MODEL.RPN.POST_NMS_TOPK_TRAIN 1500 MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA 0.5
    INPUT.MIN_SIZE_TRAIN (640,672,704,736,768,800)
    DATASETS.TRAIN ("keypoints_coco_2017_train",) DATASETS.TEST ("keypoints_coco_2017_val",)"""
CITYSCAPES = f"""{FPN} {RGB} MODEL.MASK_ON True MODEL.ROI_HEADS.NUM_CLASSES 8
    INPUT.MIN_SIZE_TRAIN (800,832,864,896,928,960,992,1024) INPUT.MIN_SIZE_TRAIN_SAMPLING choice
    INPUT.MIN_SIZE_TEST 1024 INPUT.MAX_SIZE_TRAIN 2048 INPUT.MAX_SIZE_TEST 2048
    DATASETS.TRAIN ("cityscapes_fine_instance_seg_train",) DATASETS.TEST ("cityscapes_fine_instance_seg_val",)
    SOLVER.BASE_LR 0.01 SOLVER.STEPS (18000,) SOLVER.MAX_ITER 24000 SOLVER.IMS_PER_BATCH 8"""
MASK_C4 = f"{C4_BN} {COCO} {RGB} MODEL.MASK_ON True INPUT.MIN_SIZE_TEST 800"

ORIGINALS = {
    "PascalVOC-Detection/faster_rcnn_R_50_C4_24k": f"{C4_BN} {VOC} {VOC_24K}",
    "PascalVOC-Detection/faster_rcnn_R_101_C4_24k": f"{C4_BN} {VOC} {VOC_24K} MODEL.RESNETS.DEPTH 101",
    # facebookresearch/moco d00ef73
    "PascalVOC-Detection/faster_rcnn_R_50_C4_24k_naive_sync_bn": (
        f"{C4_BN} {VOC} {VOC_24K} MODEL.RESNETS.NORM naiveSyncBN"
    ),
    # VISSL voc0712/mocoV2 and voc0712/iccv19
    "PascalVOC-Detection/faster_rcnn_R_50_C4_24k_warmup1000": (
        f"{C4_BN} {VOC} {VOC_24K} SOLVER.WARMUP_ITERS 1000"
    ),
    "PascalVOC-Detection/faster_rcnn_R_50_C4_25k_frozen_bn": (
        f"{C4} {VOC} SOLVER.STEPS (17000,) SOLVER.MAX_ITER 25000 SOLVER.WARMUP_ITERS 100"
    ),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x": f"{MASK_C4} {ONE}",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_2x": f"{MASK_C4} {TWO}",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_2fc": f"{MASK_FPN} {ONE}",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_2x_2fc": f"{MASK_FPN} {TWO}",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_4conv1fc": f"{MASK_FPN} {INFOMIN} {ONE}",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_2x_4conv1fc": f"{MASK_FPN} {INFOMIN} {TWO}",
    "COCO-Detection/retinanet_R_50_FPN_1x": f"{RETINANET} {ONE}",
    "COCO-Detection/retinanet_R_50_FPN_2x": f"{RETINANET} {TWO}",
    # AdelaiDet; its model is not detectron2's, see tests/modeling/test_fcos.py
    "COCO-Detection/fcos_R_50_FPN_1x": f"{DENSE} {ONE}",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_2x": f"{KEYPOINT} {TWO}",
    "Cityscapes/mask_rcnn_R_50_FPN_24k": CITYSCAPES,
}
EXTRA_NORM = [name for name in ORIGINALS if "C4" in name and "frozen" not in name]
# Ours -> what detectron2 builds
OWN_TYPES = {"Res5ROIHeadsExtraNorm": "Res5ROIHeads", "ResumableRetinaNet": "RetinaNet"}

by_name = pytest.mark.parametrize("name", ORIGINALS)


def original(name: str):
    cfg = get_cfg()
    cfg.merge_from_list(ORIGINALS[name].split())
    if "retinanet" in name:
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = SIZES
    cfg.MODEL.DEVICE = "meta"
    return cfg


def ours(name: str):
    return load_config(str(ROOT / f"{name}.py"))


def original_model(name: str, cfg) -> nn.Module:
    with torch.device("meta"):
        model = build_model(cfg)
        if name in EXTRA_NORM:  # D. train_net.py:23-28
            model.roi_heads.res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, 2048))
    return model


def facts(model: nn.Module) -> dict:
    """Type of every module and each number, name and flag that it holds."""
    found = {}
    for name, module in model.named_modules():
        kind = type(module).__name__
        found[name] = OWN_TYPES.get(kind, kind)
        for key, value in vars(module).items():
            if (
                not key.startswith("_")
                and key != "vis_period"
                and (value := plain(value)) is not NotImplemented
            ):
                found[f"{name}.{key}"] = value
    return found


def plain(value):
    if isinstance(value, (ListConfig, DictConfig)):
        value = OmegaConf.to_container(value)
    if isinstance(value, (int, float, str, bool, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):  # a loss weight that is not given is 1
        return {key: plain(item) for key, item in value.items() if item != 1.0}
    if isinstance(value, (Box2BoxTransform, Matcher)):
        return plain(vars(value))
    if isinstance(value, ShapeSpec):
        return [value.channels, value.height, value.width, value.stride]
    return NotImplemented


@pytest.mark.parametrize("name", [name for name in ORIGINALS if "fcos" not in name])
def test_model(name):
    theirs = original_model(name, original(name))
    with torch.device("meta"):
        model = instantiate(ours(name).model)
    expected, found = facts(theirs), facts(model)
    assert found.keys() == expected.keys()
    assert {k: (v, found[k]) for k, v in expected.items() if found[k] != v} == {}
    trained = {n: (tuple(p.shape), p.requires_grad) for n, p in theirs.named_parameters()}
    assert {n: (tuple(p.shape), p.requires_grad) for n, p in model.named_parameters()} == trained


def test_fcos_model():
    """adet/config/defaults.py:19-69 and adet/modeling/backbone/fpn.py (P6 and P7 from P5)."""
    with torch.device("meta"):
        model = instantiate(ours("COCO-Detection/fcos_R_50_FPN_1x").model)
        retinanet = instantiate(ours("COCO-Detection/retinanet_R_50_FPN_1x").model)
    assert (type(model).__name__, type(model.head).__name__) == ("AuthorsFCOS", "ScaledFCOSHead")
    own, other = facts(model.backbone), facts(retinanet.backbone)
    # all but where P6 comes from
    differing = {key for key in own.keys() | other.keys() if own.get(key) != other.get(key)}
    assert differing == {"top_block.in_feature", "top_block.p6.in_channels"}
    assert model.backbone.top_block.in_feature == "p5"
    values = (model.num_classes, model.center_sampling_radius, model.focal_loss_alpha, model.focal_loss_gamma)
    assert values == (80, 1.5, 0.25, 2.0)
    assert (model.test_score_thresh, model.test_nms_thresh) == (0.05, 0.6)
    assert (model.test_topk_candidates, model.max_detections_per_image) == (1000, 100)
    assert list(model.head_in_features) == ["p3", "p4", "p5", "p6", "p7"]
    for tower in (model.head.cls_subnet, model.head.bbox_subnet):
        assert [type(layer).__name__ for layer in tower] == ["Conv2d", "GroupNorm", "ReLU"] * 4
        assert all((norm.num_groups, norm.num_channels) == (32, 256) for norm in tower[1::3])
    assert len(model.head.scales) == 5
    assert all(p.requires_grad for p in model.parameters())
    names = {type(m).__name__ for m in model.backbone.modules() if "Norm" in type(m).__name__}
    assert names == {"SyncBatchNorm"}


@by_name
def test_pixels_batch_and_data(name):
    """Augmentations, image format, batch, data sets and what the mapper reads."""
    cfg, own = original(name), ours(name)
    for part, is_train in ((own.dataloader.train, True), (own.dataloader.test, False)):
        expected = build_augmentation(cfg, is_train)
        found = [instantiate(node) for node in part.mapper.augmentations]
        assert [type(a) for a in found] == [type(a) for a in expected]
        for key in ("short_edge_length", "max_size", "interp", *["sample_style"] * is_train):
            assert plain(getattr(found[0], key)) == plain(getattr(expected[0], key)), key
        assert [(a.prob, a.horizontal, a.vertical) for a in found[1:]] == [(0.5, True, False)] * is_train
    expected = DatasetMapper.from_config(cfg, True)
    mapper = instantiate(own.dataloader.train.mapper)
    for key in ("image_format", "use_instance_mask", "use_keypoint", "instance_mask_format"):
        assert getattr(mapper, key) == expected[key], key
    assert mapper.keypoint_hflip_indices == expected.get("keypoint_hflip_indices")
    assert (mapper.recompute_boxes, mapper.is_train) == (expected["recompute_boxes"], True)
    names = own.dataloader.train.dataset.names
    assert ((names,) if isinstance(names, str) else tuple(names)) == cfg.DATASETS.TRAIN
    assert (own.dataloader.test.dataset.names,) == cfg.DATASETS.TEST
    assert own.dataloader.evaluator.dataset_name == own.dataloader.test.dataset.names
    assert own.dataloader.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert own.dataloader.train.aspect_ratio_grouping == cfg.DATALOADER.ASPECT_RATIO_GROUPING
    with_keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    assert own.dataloader.train.dataset.get("min_keypoints", 0) == with_keypoints
    if "tasks" in own.dataloader.evaluator:
        switches = {"segm": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
        tasks = ["bbox", *(task for task, on in switches.items() if on)]
        assert list(own.dataloader.evaluator.tasks) == tasks


@by_name
def test_optimiser_and_schedule(name):
    cfg, own = original(name), ours(name)
    solver = cfg.SOLVER
    values = (own.optimizer.lr, own.optimizer.momentum, own.optimizer.weight_decay)
    assert values == (solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY)
    assert own.optimizer.params.weight_decay_norm == solver.WEIGHT_DECAY_NORM
    assert own.train.max_iter == solver.MAX_ITER
    precise = [(hook.num_iter, hook.period) for hook in own.train.hooks]
    assert precise == [(cfg.TEST.PRECISE_BN.NUM_ITER, 5000)] * cfg.TEST.PRECISE_BN.ENABLED
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=solver.BASE_LR)
    theirs, mine = build_lr_scheduler(cfg, optimizer), instantiate(own.lr_multiplier)
    edges = [0, 1, solver.WARMUP_ITERS - 1, solver.WARMUP_ITERS, solver.MAX_ITER - 1]
    edges += [step + k for step in solver.STEPS for k in (-1, 0)]
    for iteration in edges:
        theirs.last_epoch = iteration
        assert own.optimizer.lr * mine(iteration / solver.MAX_ITER) == pytest.approx(
            theirs.get_lr()[0], rel=1e-6
        ), iteration


@pytest.mark.parametrize("name", ["Cityscapes/mask_rcnn_R_50_FPN_24k", *EXTRA_NORM[:1]])
def test_weight_decay_of_each_parameter(name):
    cfg, own = original(name), ours(name)
    theirs = original_model(name, cfg)
    groups = get_default_optimizer_params(
        theirs,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
    )
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    expected = {n: decay[id(p)] for n, p in theirs.named_parameters()}
    with torch.device("meta"):
        own.optimizer.params.model = instantiate(own.model)
    found = {n: g["weight_decay"] for g in instantiate(own.optimizer.params) for n in g["param_names"]}
    assert found == expected
    assert set(found.values()) == {0.0, 1e-4}
