"""The parts of which the layouts are made: names of tensors, conventions, and what may be dropped and why.

Data only, without torch. `layouts.py` puts the parts together and has the sources.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from densessl.checkpoint.names import Table


@dataclass(frozen=True)
class Drop:
    """Tensors that a layout explains and that do not belong to its trunk.

    Args:
        label: what they are.
        pattern: regular expression on the whole name, without a leading `module.`.
        reason: why the trunk computes the same without them.
        copy_of: (prefix here, prefix there): they repeat the tensors of another prefix, which is verified.
    """

    label: str
    pattern: str
    reason: str
    copy_of: tuple[str, str] | None = None


# ------------------------------------------------------------------ conventions (pixel range 0-255)

TORCHVISION_CONVENTIONS = {
    "input_format": "RGB",
    "pixel_mean": [123.675, 116.28, 103.53],
    "pixel_std": [58.395, 57.12, 57.375],
    "stride_in_1x1": False,
}
MSRA_CONVENTIONS = {
    "input_format": "BGR",
    "pixel_mean": [103.53, 116.28, 123.675],
    "pixel_std": [1.0, 1.0, 1.0],
    "stride_in_1x1": True,
}
# Detectron's own models, detectron2/checkpoint/catalog.py and configs of R-50-GN and X-101-32x8d
FAIR_GN_CONVENTIONS = {**MSRA_CONVENTIONS, "stride_in_1x1": False}
FAIR_GROUPED_CONVENTIONS = {**FAIR_GN_CONVENTIONS, "pixel_std": [57.375, 57.12, 58.395]}
# Authors that the published scripts write into .pkl files with detectron2's names.
TORCHVISION_AUTHORS = ("OpenSelfSup", "MOCO", "MMSelfSup", "torchvision")

# ------------------------------------------------------------------ tables of names

RESNET = (
    ("conv1.{leaf}", "stem.conv1.{leaf}"),
    ("bn1.{leaf}", "stem.conv1.norm.{leaf}"),
    ("layer{stage}.{block}.conv{conv}.{leaf}", "res{stage+1}.{block}.conv{conv}.{leaf}"),
    ("layer{stage}.{block}.bn{conv}.{leaf}", "res{stage+1}.{block}.conv{conv}.norm.{leaf}"),
    ("layer{stage}.{block}.downsample.0.{leaf}", "res{stage+1}.{block}.shortcut.{leaf}"),
    ("layer{stage}.{block}.downsample.1.{leaf}", "res{stage+1}.{block}.shortcut.norm.{leaf}"),
)
HF_RESNET = (
    ("embedder.embedder.convolution.{leaf}", "stem.conv1.{leaf}"),
    ("embedder.embedder.normalization.{leaf}", "stem.conv1.norm.{leaf}"),
    (
        "encoder.stages.{stage}.layers.{block}.layer.{conv}.convolution.{leaf}",
        "res{stage+2}.{block}.conv{conv+1}.{leaf}",
    ),
    (
        "encoder.stages.{stage}.layers.{block}.layer.{conv}.normalization.{leaf}",
        "res{stage+2}.{block}.conv{conv+1}.norm.{leaf}",
    ),
    (
        "encoder.stages.{stage}.layers.{block}.shortcut.convolution.{leaf}",
        "res{stage+2}.{block}.shortcut.{leaf}",
    ),
    (
        "encoder.stages.{stage}.layers.{block}.shortcut.normalization.{leaf}",
        "res{stage+2}.{block}.shortcut.norm.{leaf}",
    ),
)
# PiCIE's decoder: 1x1 convolutions, layer1 on the last stage (densesiam_picie: section 7.3)
PICIE_DECODER = tuple((f"decoder.layer{n}.{{leaf}}", f"fpn_lateral{6 - n}.{{leaf}}") for n in (1, 2, 3, 4))
FC = ("fc.{leaf}", "linear.{leaf}")


def under(prefix: str, table: Table) -> Table:
    """The table for files that hold the same names behind `prefix`."""
    return tuple((prefix + theirs, ours) for theirs, ours in table)


def caffe2(norm: str, stem: str, leaves: Mapping[str, str]) -> Table:
    """Detectron's names: `norm` is "bn" or "gn", `leaves` maps its suffixes to PyTorch's leaf names."""
    pairs = [("conv1_w", "stem.conv1.weight")]
    pairs += [(f"{stem}_{norm}_{short}", f"stem.conv1.norm.{leaf}") for short, leaf in leaves.items()]
    layers = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
    for branch, layer in layers.items():
        theirs, ours = f"res{{stage}}_{{block}}_branch{branch}", f"res{{stage}}.{{block}}.{layer}"
        pairs.append((f"{theirs}_w", f"{ours}.weight"))
        pairs += [(f"{theirs}_{norm}_{short}", f"{ours}.norm.{leaf}") for short, leaf in leaves.items()]
    return tuple(pairs)


# ------------------------------------------------------------------ what is dropped

NOT_IN_DETECTOR = "used by pretraining only"
CLASSIFIER = Drop(
    "classifier", r"((backbone|encoder(_[qk])?|_feature_blocks|0)\.)*fc\..+", "the trunk ends before it"
)
MOMENTUM = Drop("momentum encoder", r"encoder_k\..+", "a second trunk; the trained one is kept")
PROJECTION = Drop("projection head", r"encoder(_q)?\.fc\..+", NOT_IN_DETECTOR)
QUEUES = Drop("queues", r"queue2?(_ptr)?", NOT_IN_DETECTOR)
NECK = Drop("projection heads", r"(encoder_q\.1|neck)\..+", NOT_IN_DETECTOR)
QUERY_COPY = Drop(
    "the trunk a second time",
    r"encoder_q\.0\..+",
    "OpenSelfSup stores backbone.* again as encoder_q.0.*; compared, equal",
    copy_of=("encoder_q.0.", "backbone."),
)
OPENSELFSUP = (MOMENTUM, QUEUES, NECK, QUERY_COPY, CLASSIFIER)
MM_HEADS = Drop(
    "neck and heads", r"(neck|\w*head|\w*head\.\w+|roi_extractor)\..+", "parts of the downstream model"
)
DENSESIAM = Drop(
    "projectors and predictors", r"((aux|kernel|global)_)?(projector|predictor)\..+", NOT_IN_DETECTOR
)
CLUSTER_LOSS = Drop("cluster classifiers", r"(classifier[12]|cls_loss[12])\..+", NOT_IN_DETECTOR)
SWAV_HEADS = Drop("projection head and prototypes", r"(projection_head|prototypes)\..+", NOT_IN_DETECTOR)
DETECTOR = Drop(
    "heads of the detector",
    r"(proposal_generator|roi_heads(?!\.res5\.norm)|sem_seg_head|head|ins_head|mask_head|anchor_generator)\..+",
    "parts of the downstream model",
)
PYRAMID = Drop("feature pyramid", r"backbone\.(fpn_|top_block\.|simfp_).+", "not part of the trunk")
PIXELS = Drop("pixel statistics", r"(model\.)?pixel_(mean|std)", "written as conventions of the file")
OURS = (
    Drop("momentum encoder", r"momentum_.+", "a second trunk; the trained one is kept"),
    Drop("heads", r"(?!roi_heads\.)\w*(head|predictor|projector)s?\..+", NOT_IN_DETECTOR),
    Drop("queues", r"(\w+_)?queue(_ptr)?", NOT_IN_DETECTOR),
)
DETECTRON2 = (
    DETECTOR,
    PYRAMID,
    PIXELS,
    *OURS,
    Drop("classifier", r"(backbone\.(bottom_up\.)?)?linear\..+", "after the trunk"),
)
# detectron2 tools/convert-torchvision-to-d2.py and MoCo detection/convert-pretrain-to-detectron2.py put
# "stem." before every name without "layer", that of the head included; detectron2 does not read it
STEM_FC = Drop(
    "classifier or projection head",
    r"stem\.fc\..+",
    "behind the trunk; the published converters call it stem.fc",
)
CAFFE2 = (
    Drop("classifier", r"(fc1000|pred)_[wb]", "the trunk ends before it"),
    Drop(
        "convolution biases",
        r"(conv1|res\d+_\d+_branch\w+)_b",
        "Detectron builds these convolutions without bias (ResNet.py, no_bias=1) and ignores them; so does "
        "detectron2",
    ),
    Drop("optimiser momentum", r".+_momentum", "not weights"),
    Drop(
        "heads of the detector",
        r"(fpn|conv_rpn|rpn|retnet|fc6|fc7|head|bbox_pred|cls_score|mask|_\[mask\]|conv5_mask|conv_fcn|kps)_.+",
        "parts of the downstream model",
    ),
)

# What no rule may drop: (what it is, regular expression on the end of a name). Without it, the remaining
# tensors compute another function.
CHANGES_FUNCTION = (
    ("LayerScale", r"(^|\.)(ls\d?\.gamma|gamma_\d|lambda_?\d?|layer_scale\w*)$"),
    ("register tokens", r"(^|\.)(register_tokens?|reg_token)$"),
    ("relative positions", r"(^|\.)(rel_pos_[hw]|relative_position_bias_table|rel_pos\w*)$"),
    ("extra norm behind res5", r"(^|\.)res5\.norm\.\w+$"),
    ("deep stem", r"(^|\.)(conv1|stem)\.\d+\.\w+$"),
    ("pooled or widened shortcut", r"(^|\.)downsample\.[2-9]\.\w+$"),
    ("strided convolution in place of max pooling", r"(^|\.)maxpool\.\d+\.\w+$"),
    ("attention in the blocks", r"\.layer\d+\.\d+\.(se|eca|cbam|attn|context|gc)\w*\..+$"),
    ("deformable convolution", r"\.conv\d_offset\.\w+$"),
    ("split attention or anti-aliasing", r"\.layer\d+\.\d+\.(conv\d\.(conv|bn|fc)\d?|aa|conv\d\.\d)\..+$"),
    ("context blocks", r"\.layer\d+\.\d+\.(context_block|gen_attention\w*|nonlocal_block)\..+$"),
)
