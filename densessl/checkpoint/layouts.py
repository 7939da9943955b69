"""The layouts of checkpoint files, as data: one table per layout, used to read it and to write it.

`tools/convert_checkpoint.py` and `train.init_checkpoint` use the same tables. Nothing here imports torch.
A layout is added by adding an entry to `LAYOUTS`; the order of the list is the order of recognition.

Sources, one per family (key lists made by instantiating the classes: tests/data/golden/checkpoints):
torchvision `models/resnet.py`; timm `models/resnet.py`; transformers `models/resnet/modeling_resnet.py`;
WXinlong/DenseCL `openselfsup/models/densecl.py`, `tools/extract_backbone_weights.py` and
`benchmarks/detection/convert-pretrain-to-detectron2.py`; open-mmlab/mmselfsup `tools/model_converters`;
facebookresearch/moco `moco/builder.py`; facebookresearch/simsiam `simsiam/builder.py`; facebookresearch/swav
`src/resnet50.py`; VISSL `vissl/models/trunks/resnext.py`; janghyuncho/PiCIE `modules/fpn.py`; detectron2
`checkpoint/c2_model_loading.py` and facebookresearch/Detectron `tools/pickle_caffe_blobs.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from densessl.checkpoint.names import Table
from densessl.checkpoint.tables import (
    CAFFE2,
    CLASSIFIER,
    CLUSTER_LOSS,
    DENSESIAM,
    DETECTRON2,
    FAIR_GN_CONVENTIONS,
    FAIR_GROUPED_CONVENTIONS,
    FC,
    HF_RESNET,
    MM_HEADS,
    MOMENTUM,
    MSRA_CONVENTIONS,
    NECK,
    NOT_IN_DETECTOR,
    OPENSELFSUP,
    PICIE_DECODER,
    PROJECTION,
    QUEUES,
    RESNET,
    STEM_FC,
    SWAV_HEADS,
    TORCHVISION_CONVENTIONS,
    Drop,
    caffe2,
    under,
)


@dataclass(frozen=True)
class Layout:
    """One way to store weights.

    Args:
        name: what `--to` and `--from` take.
        title: whose files these are.
        names: pairs (name in the file, name here), see `names.py`; the whole name, prefix included.
        marks: names that every file of the layout has (without a leading `module.`).
        absent: names that no file of the layout has.
        beside: entries that such a file has at its top level beside the weights; `key=value` asks for a
            value.
        drops: everything else that such files hold.
        container: keys under which a written file holds the state dict; () for a bare state dict.
        fields: other top-level entries of a written file.
        wrapper: "module." where the files are written from inside DataParallel.
        conventions: how the trunk takes its pixels, see `state.input_conventions`; None when the layout
            does not tell. `norm`: "affine" (BN folded) or "GN" where the names alone do not say it.
        grouped_conventions: the same for trunks with grouped convolutions, where they differ.
        suffixes: endings of files that may be written.
        library: package whose ResNet has the trunk's names: "torchvision", "timm", "transformers"; None for
            none.
        writes: what a written file holds, where that is only a part of what others write.
    """

    name: str
    title: str
    names: Table
    marks: tuple[str, ...]
    absent: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    drops: tuple[Drop, ...] = ()
    container: tuple[str, ...] = ()
    fields: tuple[tuple[str, Any], ...] = ()
    wrapper: str = ""
    conventions: Mapping[str, Any] | None = None
    grouped_conventions: Mapping[str, Any] | None = None
    suffixes: tuple[str, ...] = (".pth", ".pth.tar", ".safetensors")
    library: str | None = None
    writes: str = ""


# ------------------------------------------------------------------ layouts, in order of recognition

_TV = {"conventions": TORCHVISION_CONVENTIONS, "library": "torchvision"}
_PKL = (".pkl", ".pth", ".safetensors")
_TRUNK_ONLY = "the backbone part only: heads, momentum encoder and queues cannot come from a trunk"
_BACKBONE = under("backbone.", RESNET)
_DETECTRON2_FIELDS = (("__author__", "densessl"), ("matching_heuristics", True))
_EXACT_FIELDS = (("__author__", "densessl"),)

LAYOUTS = (
    Layout(
        "caffe2",
        "Detectron (Caffe2), BN folded into an affine layer: MSRA R-50, R-101",
        caffe2("bn", "res_conv1", {"s": "weight", "b": "bias"}),
        ("conv1_w", "res_conv1_bn_s", "res2_0_branch2a_bn_s"),
        drops=CAFFE2,
        conventions={**MSRA_CONVENTIONS, "norm": "affine"},
        grouped_conventions={**FAIR_GROUPED_CONVENTIONS, "norm": "affine"},
        suffixes=(".pkl",),
    ),
    Layout(
        "caffe2-bn",
        "Detectron (Caffe2) names with full BN: ImageNetPretrained/MSRA of detectron2",
        caffe2(
            "bn",
            "res_conv1",
            {
                "gamma": "weight",
                "beta": "bias",
                "running_mean": "running_mean",
                "running_var": "running_var",
            },
        ),
        ("conv1_w", "res_conv1_bn_gamma", "res2_0_branch2a_bn_gamma"),
        drops=CAFFE2,
        conventions=MSRA_CONVENTIONS,
        grouped_conventions=FAIR_GROUPED_CONVENTIONS,
        suffixes=(".pkl",),
    ),
    Layout(
        "caffe2-gn",
        "Detectron (Caffe2) with GroupNorm: FAIR R-50-GN",
        caffe2("gn", "conv1", {"s": "weight", "b": "bias"}),
        ("conv1_w", "conv1_gn_s", "res2_0_branch2a_gn_s"),
        drops=CAFFE2,
        conventions={**FAIR_GN_CONVENTIONS, "norm": "GN"},
        grouped_conventions={**FAIR_GROUPED_CONVENTIONS, "norm": "GN"},
        suffixes=(".pkl",),
    ),
    Layout(
        "vissl",
        "VISSL",
        under("_feature_blocks.", RESNET),
        ("_feature_blocks.conv1.weight", "_feature_blocks.layer1.0.conv1.weight"),
        drops=(CLASSIFIER, Drop("heads", r"heads\..+", NOT_IN_DETECTOR)),
        container=("classy_state_dict", "base_model", "model", "trunk"),
        **_TV,
    ),
    Layout(
        "densecl-train",
        "DenseCL training checkpoint (also mmselfsup 0.x)",
        _BACKBONE,
        ("backbone.conv1.weight", "encoder_k.0.conv1.weight", "queue2"),
        drops=OPENSELFSUP,
        container=("state_dict",),
        writes=_TRUNK_ONLY,
        **_TV,
    ),
    Layout(
        "openselfsup-train",
        "OpenSelfSup or mmselfsup 0.x training checkpoint (MoCo)",
        _BACKBONE,
        ("backbone.conv1.weight", "encoder_k.0.conv1.weight"),
        drops=OPENSELFSUP,
        container=("state_dict",),
        writes=_TRUNK_ONLY,
        **_TV,
    ),
    Layout(
        "openselfsup-query",
        "query encoder of an OpenSelfSup training checkpoint",
        under("encoder_q.0.", RESNET),
        ("encoder_q.0.conv1.weight", "encoder_q.0.layer1.0.conv1.weight"),
        drops=(
            *OPENSELFSUP[:3],
            CLASSIFIER,
            Drop("the trunk's other name", r"backbone\..+", "the query encoder was asked for by --from"),
        ),
        container=("state_dict",),
        writes=_TRUNK_ONLY,
        **_TV,
    ),
    Layout(
        "mmselfsup-train",
        "mmselfsup 1.x or mmpretrain training checkpoint",
        _BACKBONE,
        ("backbone.conv1.weight", "encoder_k.module.0.conv1.weight"),
        drops=(
            Drop(
                "momentum encoder",
                r"encoder_k\.(module\..+|steps)",
                "a second trunk; the trained one is kept",
            ),
            QUEUES,
            NECK,
            CLASSIFIER,
        ),
        container=("state_dict",),
        writes=_TRUNK_ONLY,
        **_TV,
    ),
    Layout(
        "densesiam",
        "DenseSiam (mmcv 1.x)",
        (*_BACKBONE, *PICIE_DECODER),
        ("backbone.conv1.weight", "decoder.layer1.weight", "kernel_projector.0.weight"),
        drops=(DENSESIAM,),
        container=("state_dict",),
        writes="trunk and decoder only: projectors and predictors are not in other layouts",
        **_TV,
    ),
    Layout(
        "densesiam-picie",
        "PiCIE as trained by DenseSiam's code (mmcv 1.x)",
        (*_BACKBONE, *PICIE_DECODER),
        ("backbone.conv1.weight", "decoder.layer1.weight", "classifier1.weight"),
        drops=(CLUSTER_LOSS,),
        container=("state_dict",),
        writes="trunk and decoder only",
        **_TV,
    ),
    Layout(
        "picie",
        "PiCIE",
        (*_BACKBONE, *PICIE_DECODER),
        ("backbone.conv1.weight", "decoder.layer1.weight"),
        beside=("classifier2_state_dict",),
        container=("state_dict",),
        wrapper="module.",
        writes="trunk and decoder only: the classifiers are not in other layouts",
        **_TV,
    ),
    Layout(
        "mdc",
        "MDC (modified DeepCluster of the PiCIE repository), or PiCIE without its classifiers",
        (*_BACKBONE, *PICIE_DECODER),
        ("backbone.conv1.weight", "decoder.layer1.weight"),
        container=("state_dict",),
        wrapper="module.",
        writes="trunk and decoder only: the classifier is not in other layouts",
        **_TV,
    ),
    Layout(
        "openmmlab",
        "OpenMMLab detector, segmenter or classifier",
        _BACKBONE,
        ("backbone.conv1.weight", "backbone.layer1.0.conv1.weight"),
        drops=(MM_HEADS, CLASSIFIER, QUEUES),
        container=("state_dict",),
        fields=(("meta", {}),),
        writes="the backbone part only",
        **_TV,
    ),
    Layout(
        "moco",
        "MoCo official",
        under("encoder_q.", RESNET),
        ("encoder_q.conv1.weight", "encoder_q.layer1.0.conv1.weight"),
        drops=(PROJECTION, MOMENTUM, QUEUES),
        container=("state_dict",),
        wrapper="module.",
        writes=_TRUNK_ONLY,
        **_TV,
    ),
    Layout(
        "simsiam",
        "SimSiam official",
        under("encoder.", RESNET),
        ("encoder.conv1.weight", "encoder.layer1.0.conv1.weight"),
        drops=(PROJECTION, Drop("predictor", r"predictor\..+", NOT_IN_DETECTOR)),
        container=("state_dict",),
        wrapper="module.",
        writes="the trunk only: projector and predictor cannot come from a trunk",
        **_TV,
    ),
    Layout(
        "swav",
        "SwAV",
        RESNET,
        ("conv1.weight", "layer1.0.conv1.weight", "prototypes.weight"),
        drops=(SWAV_HEADS,),
        wrapper="module.",
        writes="the trunk only: projection head and prototypes cannot come from a trunk",
        **_TV,
    ),
    Layout(
        "hf-resnet-classifier",
        "transformers ResNetForImageClassification",
        (*under("resnet.", HF_RESNET), ("classifier.1.{leaf}", "linear.{leaf}")),
        ("resnet.embedder.embedder.convolution.weight",),
        conventions=TORCHVISION_CONVENTIONS,
        library="transformers",
        suffixes=(".safetensors", ".pth"),
    ),
    Layout(
        "hf-resnet",
        "transformers ResNetModel, ResNetBackbone",
        HF_RESNET,
        ("embedder.embedder.convolution.weight",),
        conventions=TORCHVISION_CONVENTIONS,
        library="transformers",
        suffixes=(".safetensors", ".pth"),
    ),
    Layout(
        "densecl",
        "DenseCL extracted backbone",
        RESNET,
        ("conv1.weight", "layer1.0.conv1.weight"),
        beside=("author=DenseCL",),
        drops=(CLASSIFIER,),
        container=("state_dict",),
        fields=(("author", "DenseCL"),),
        **_TV,
    ),
    Layout(
        "mmselfsup",
        "mmselfsup extracted backbone",
        RESNET,
        ("conv1.weight", "layer1.0.conv1.weight"),
        beside=("author=MMSelfSup",),
        drops=(CLASSIFIER,),
        container=("state_dict",),
        fields=(("author", "MMSelfSup"),),
        **_TV,
    ),
    Layout(
        "torchvision",
        "torchvision, or an extracted backbone with its names",
        (*RESNET, FC),
        ("conv1.weight", "layer1.0.conv1.weight"),
        drops=(CLASSIFIER,),
        **_TV,
    ),
    Layout(
        "timm",
        "timm",
        (*RESNET, FC),
        ("conv1.weight", "layer1.0.conv1.weight"),
        drops=(CLASSIFIER,),
        conventions=TORCHVISION_CONVENTIONS,
        library="timm",
        suffixes=(".safetensors", ".pth"),
    ),
    Layout(
        "detectron2-picie",
        "PiCIE with detectron2's names: laterals only, not the feature pyramid of a detector",
        (
            ("backbone.fpn_lateral{level}.{leaf}", "fpn_lateral{level}.{leaf}"),
            ("backbone.bottom_up.{trunk}", "{trunk}"),
        ),
        ("backbone.bottom_up.stem.conv1.weight", "backbone.fpn_lateral5.bias"),
        absent=("backbone.fpn_output5.weight",),
        container=("model",),
        fields=_EXACT_FIELDS,
        suffixes=_PKL,
    ),
    Layout(
        "detectron2-fpn",
        "detectron2 model with a feature pyramid",
        (("backbone.bottom_up.{trunk}", "{trunk}"),),
        ("backbone.bottom_up.stem.conv1.weight",),
        drops=DETECTRON2,
        container=("model",),
        fields=_EXACT_FIELDS,
        suffixes=_PKL,
    ),
    Layout(
        "vitdet",
        "detectron2 ViTDet",
        (("backbone.net.{trunk}", "{trunk}"),),
        ("backbone.net.patch_embed.proj.weight",),
        drops=DETECTRON2,
        container=("model",),
        fields=_EXACT_FIELDS,
        suffixes=_PKL,
    ),
    Layout(
        "detectron2-c4",
        "detectron2 C4 detector",
        (("roi_heads.res5.{block}.{trunk}", "res5.{block}.{trunk}"), ("backbone.{trunk}", "{trunk}")),
        ("backbone.stem.conv1.weight", "roi_heads.res5.0.conv1.weight"),
        drops=DETECTRON2,
        container=("model",),
        fields=_EXACT_FIELDS,
        suffixes=_PKL,
    ),
    Layout(
        "densessl",
        "this project's pretraining models, segmenters and classifiers",
        (("backbone.{trunk}", "{trunk}"),),
        ("backbone.stem.conv1.weight",),
        drops=DETECTRON2,
        container=("model",),
        suffixes=(".pth", ".safetensors"),
        writes="a checkpoint for train.init_checkpoint, not for --resume",
    ),
    Layout(
        "detectron2",
        "detectron2 trunk for its name matching (MODEL.WEIGHTS of detectron2 and AdelaiDet)",
        (("{trunk}", "{trunk}"),),
        ("stem.conv1.weight",),
        drops=(DETECTRON2[-1], STEM_FC),
        container=("model",),
        fields=_DETECTRON2_FIELDS,
        suffixes=_PKL,
    ),
)
BY_NAME = {layout.name: layout for layout in LAYOUTS}
