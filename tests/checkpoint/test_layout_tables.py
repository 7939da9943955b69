"""The tables against key lists made by instantiating the authors' classes, without any file.

A tensor is followed by identity: a stand-in object per name, so 974 names of a full R-50 cost nothing.
"""

import pytest
import torch
from weight_files import golden, stand_ins

from densessl.checkpoint.architecture import COUNTER, describe
from densessl.checkpoint.convert import plan_conversion
from densessl.checkpoint.layouts import BY_NAME, LAYOUTS
from densessl.checkpoint.names import rename, rename_back
from densessl.checkpoint.recognise import recognise
from densessl.checkpoint.tables import CHANGES_FUNCTION


def timm_names(name):
    import timm

    with torch.device("meta"):
        return {k: list(v.shape) for k, v in timm.create_model(name).state_dict().items()}


def transformers_names(class_name, **options):
    import transformers

    config = transformers.ResNetConfig(**options)
    with torch.device("meta"):
        model = getattr(transformers, class_name)(config)
    return {k: list(v.shape) for k, v in model.state_dict().items()}


HF_18 = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
CONTAINERS = {
    "densecl": lambda state: {"state_dict": state, "author": "DenseCL"},
    "detectron2": lambda state: {"model": state, "__author__": "OpenSelfSup", "matching_heuristics": True},
    "picie": lambda state: {"state_dict": state, "classifier2_state_dict": {}},
    "vissl": lambda state: {"classy_state_dict": {"base_model": {"model": {"trunk": state}}}},
    "swav": lambda state: state,
}
# layout, key list, {drop rule: tensors}
SOURCES = [
    (
        "densecl-train",
        "densecl_full_train_r50",
        {"momentum encoder": 326, "queues": 4, "projection heads": 8, "the trunk a second time": 318},
    ),
    (
        "openselfsup-train",
        "densecl_openselfsup_mocov2_full_train_r50",
        {"momentum encoder": 322, "queues": 2, "projection heads": 4, "the trunk a second time": 318},
    ),
    (
        "mmselfsup-train",
        "densecl_mmselfsup1x_full_train_r50",
        {"momentum encoder": 327, "queues": 4, "projection heads": 8},
    ),
    ("moco", "densecl_moco_v1_official_r50", {"projection head": 2, "momentum encoder": 320, "queues": 2}),
    ("moco", "densecl_moco_v2_official_r50", {"projection head": 4, "momentum encoder": 322, "queues": 2}),
    ("simsiam", "densecl_simsiam_official_r50", {"projection head": 17, "predictor": 8}),
    ("swav", "swav_r50_official", {"projection head and prototypes": 10}),
    ("vissl", "densecl_vissl_trunk_r50", {}),
    ("densecl", "densecl_extracted_backbone_r50", {}),
    ("densecl", "densecl_extracted_backbone_r101", {}),
    ("torchvision", "densecl_torchvision_r50", {}),
    ("detectron2", "densecl_converted_detectron2_pkl_r50", {}),
    (
        "detectron2-fpn",
        "densecl_target_detectron2_mask_rcnn_fpn_r50",
        {"heads of the detector": 64, "feature pyramid": 48},
    ),
    ("picie", "picie_r18_state_dict", {}),
    ("picie", "picie_r50_state_dict", {}),
    ("mdc", "mdc_r18_state_dict", {}),
    ("densesiam", "densesiam_r18_state_dict", {"projectors and predictors": 74}),
    ("densesiam-picie", "densesiam_picie_r18_state_dict", {"cluster classifiers": 6}),
    ("timm", lambda: timm_names("resnet50"), {}),
    ("timm", lambda: timm_names("resnet34"), {}),
    ("hf-resnet", lambda: transformers_names("ResNetModel"), {}),
    ("hf-resnet", lambda: transformers_names("ResNetBackbone", **HF_18), {}),
    ("hf-resnet-classifier", lambda: transformers_names("ResNetForImageClassification"), {}),
]
IDS = [f"{name}-{keys if isinstance(keys, str) else index}" for index, (name, keys, _) in enumerate(SOURCES)]


def read(layout, keys, given=None):
    shapes = golden(keys) if isinstance(keys, str) else keys()
    state = stand_ins(shapes)
    content = CONTAINERS.get(layout, lambda state: {"state_dict": state})(state)
    return state, recognise(content, "file", given)


def trunk_of(weights):
    return {k: v for k, v in weights.trunk_tensors().items() if k.startswith(("stem.", "res"))}


@pytest.mark.parametrize(("layout", "keys", "dropped"), SOURCES, ids=IDS)
def test_every_tensor_of_a_file_is_accounted_for(layout, keys, dropped):
    # timm's names are torchvision's; every other layout is recognised
    state, weights = read(layout, keys, "timm" if layout == "timm" else None)
    assert weights.layout.name == layout
    assert not weights.unexplained
    assert not weights.changing
    assert {rule.label: len(names) for rule, names in weights.dropped.items()} == dropped
    named = [*weights.trunk.values(), *(name for names in weights.dropped.values() for name in names)]
    assert sorted(named) == sorted(state)
    resnet = weights.resnet()
    trunk = trunk_of(weights)
    counters = {name for name in trunk if name.endswith(COUNTER)}
    assert trunk.keys() - counters == resnet.shapes().keys()
    assert all(tuple(trunk[name].shape) == shape for name, shape in resnet.shapes().items())


@pytest.mark.parametrize(("layout", "keys", "dropped"), SOURCES, ids=IDS)
def test_to_detectron2_and_back_gives_the_same_tensors(layout, keys, dropped):
    state, weights = read(layout, keys, "timm" if layout == "timm" else None)
    there = plan_conversion(weights, BY_NAME["detectron2"], "file")
    if layout == "detectron2":
        assert there.values.keys() == state.keys()
        return
    hub = recognise({"model": there.values, "__author__": "OpenSelfSup"}, "file")
    back = plan_conversion(hub, BY_NAME[layout], "file")
    trunk = {theirs for ours, theirs in weights.trunk.items() if ours.startswith(("stem.", "res"))}
    assert back.values.keys() == trunk
    assert all(back.values[name] is state[name] for name in trunk)


def names_of(key_list, *starts):
    return {name for name in golden(key_list) if name.startswith(starts or ("",)) and ".fc." not in name}


def expected_r50(layout):
    """The names that a file of a layout has for the 318 tensors of an R-50, from lists of other origin."""
    torchvision = names_of("densecl_extracted_backbone_r50")
    if layout.startswith("hf-resnet"):
        cls = "ResNetModel" if layout == "hf-resnet" else "ResNetForImageClassification"
        return {name for name in transformers_names(cls) if not name.startswith("classifier.")}
    if layout == "detectron2-c4":
        names = names_of("densecl_target_detectron2_faster_rcnn_c4_r50", "backbone.", "roi_heads.res5.")
        return {name for name in names if ".res5.norm." not in name}
    return {
        "vissl": lambda: names_of("densecl_vissl_trunk_r50"),
        "densecl-train": lambda: names_of("densecl_full_train_r50", "backbone."),
        "openselfsup-train": lambda: names_of("densecl_openselfsup_mocov2_full_train_r50", "backbone."),
        "openselfsup-query": lambda: names_of("densecl_full_train_r50", "encoder_q.0."),
        "mmselfsup-train": lambda: names_of("densecl_mmselfsup1x_full_train_r50", "backbone."),
        "densesiam": lambda: {f"backbone.{name}" for name in torchvision},
        "densesiam-picie": lambda: {f"backbone.{name}" for name in torchvision},
        "picie": lambda: names_of("picie_r50_state_dict", "module.backbone."),
        "mdc": lambda: names_of("picie_r50_state_dict", "module.backbone."),
        "openmmlab": lambda: {f"backbone.{name}" for name in torchvision},
        "moco": lambda: names_of("densecl_moco_v2_official_r50", "module.encoder_q."),
        "simsiam": lambda: names_of("densecl_simsiam_official_r50", "module.encoder."),
        "swav": lambda: {n for n in names_of("swav_r50_official") if "pro" not in n},
        "densecl": lambda: torchvision,
        "mmselfsup": lambda: torchvision,
        "torchvision": lambda: {n for n in golden("densecl_torchvision_r50") if n[:2] != "fc"},
        "timm": lambda: {n for n in timm_names("resnet50") if n[:2] != "fc"},
        "detectron2-picie": lambda: expected_r50("detectron2-fpn"),
        "detectron2-fpn": lambda: names_of(
            "densecl_target_detectron2_mask_rcnn_fpn_r50", "backbone.bottom_up."
        ),
        "densessl": lambda: {f"backbone.{n}" for n in names_of("densecl_converted_detectron2_pkl_r50")},
        "detectron2": lambda: names_of("densecl_converted_detectron2_pkl_r50"),
    }[layout]()


TARGETS = [layout.name for layout in LAYOUTS if not layout.name.startswith(("caffe2", "vitdet"))]


@pytest.mark.parametrize("target", TARGETS)
def test_exact_names_towards_every_layout(target):
    state, weights = read("densecl-train", "densecl_full_train_r50")
    conversion = plan_conversion(weights, BY_NAME[target], "file")
    if target == "densecl-train":  # the same layout keeps everything
        assert conversion.values == state
        conversion = plan_conversion(read("moco", "densecl_moco_v2_official_r50")[1], BY_NAME[target], "file")
    assert conversion.values.keys() == expected_r50(target)
    assert len(conversion.values) == 318


def test_the_classifier_goes_where_it_has_a_place():
    _, weights = read("torchvision", "densecl_torchvision_r50")
    names = plan_conversion(weights, BY_NAME["hf-resnet-classifier"], "file").values.keys()
    assert names == transformers_names("ResNetForImageClassification").keys()
    assert plan_conversion(weights, BY_NAME["timm"], "file").values.keys() == timm_names("resnet50").keys()


@pytest.mark.parametrize("depth", [18, 50])
def test_picie_with_its_decoder(depth):
    _, weights = read("picie", f"picie_r{depth}_state_dict")
    there = plan_conversion(weights, BY_NAME["detectron2-picie"], "file")
    table = golden(f"picie_r{depth}_to_detectron2")
    assert {theirs: name for name, theirs in there.origin.items()} == table
    pyramid = recognise({"model": there.values, "__author__": "torchvision"}, "file")
    assert pyramid.layout.name == "detectron2-picie"
    back = plan_conversion(pyramid, BY_NAME["picie"], "file")
    assert back.values.keys() == golden(f"picie_r{depth}_state_dict").keys()


def test_c4_with_its_extra_norm_is_read_but_not_extracted():
    shapes = golden("densecl_target_detectron2_faster_rcnn_c4_r50")
    weights = recognise({"model": stand_ins(shapes)}, "file")
    assert weights.layout.name == "detectron2-c4"
    assert len(trunk_of(weights)) == 318
    assert {what: len(names) for what, names in weights.changing.items()} == {"extra norm behind res5": 5}


@pytest.mark.parametrize(("depth", "tensors"), [(18, 120), (34, 216), (50, 318), (101, 624), (152, 930)])
def test_depths(depth, tensors):
    import torchvision

    with torch.device("meta"):
        state = getattr(torchvision.models, f"resnet{depth}")().state_dict()
    weights = recognise(state, "file")
    assert weights.resnet().depth == depth
    assert str(weights.resnet()) == f"ResNet-{depth}"
    assert len(trunk_of(weights)) == tensors
    there = plan_conversion(weights, BY_NAME["hf-resnet"], "file")
    back = plan_conversion(recognise(there.values, "file"), BY_NAME["torchvision"], "file")
    assert all(back.values[name] is state[name] for name in state if not name.startswith("fc."))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnext50_32x4d", "ResNeXt-50 32x4d"),
        ("resnext101_32x8d", "ResNeXt-101 32x8d"),
        ("wide_resnet50_2", "ResNet-50 of width 128"),
    ],
)
def test_grouped_and_wide_networks_are_named(name, expected):
    import torchvision

    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
    assert str(recognise(state, "file").resnet()) == expected
    plan_conversion(recognise(state, "file"), BY_NAME["detectron2"], "file")


def test_other_trunks_are_no_resnet():
    assert describe({"patch_embed.proj.weight": torch.zeros(2)}) is None


def test_templates():
    table = (("layer{stage}.{block}.bn{conv}.{leaf}", "res{stage+1}.{block}.conv{conv}.norm.{leaf}"),)
    assert rename("layer3.22.bn2.running_var", table) == "res4.22.conv2.norm.running_var"
    assert rename_back("res4.22.conv2.norm.running_var", table) == "layer3.22.bn2.running_var"
    assert rename("layer3.22.bn2.other", table) is None
    assert rename("xlayer3.22.bn2.bias", table) is None


def test_layouts_are_well_formed():
    assert len(BY_NAME) == len(LAYOUTS)
    for layout in LAYOUTS:
        assert layout.marks, layout.name
        assert all(drop.reason for drop in layout.drops), layout.name
        assert layout.suffixes, layout.name


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("blocks.3.ls1.gamma", "LayerScale"),
        ("blocks.3.gamma_2", "LayerScale"),
        ("register_tokens", "register tokens"),
        ("reg_token", "register tokens"),
        ("blocks.0.attn.rel_pos_h", "relative positions"),
        ("layers.0.blocks.1.attn.relative_position_bias_table", "relative positions"),
        ("roi_heads.res5.norm.weight", "extra norm behind res5"),
        ("conv1.0.weight", "deep stem"),
        ("backbone.stem.3.weight", "deep stem"),
        ("layer2.0.downsample.2.weight", "pooled or widened shortcut"),
        ("layer1.0.se.fc1.weight", "attention in the blocks"),
        ("backbone.layer2.0.conv2_offset.weight", "deformable convolution"),
    ],
)
def test_what_changes_the_function(name, what):
    from densessl.checkpoint.recognise import changes_function

    assert changes_function(name) == what
    assert what in dict(CHANGES_FUNCTION)


def test_nothing_of_a_plain_trunk_changes_the_function():
    from densessl.checkpoint.recognise import changes_function

    for keys in (
        "densecl_full_train_r50",
        "densecl_simsiam_official_r50",
        "densecl_converted_detectron2_pkl_r50",
    ):
        assert not [name for name in golden(keys) if changes_function(name)]


# ------------------------------------------------------------------ conventions that a file states


def test_old_model_zoo_files_hold_their_pixel_statistics():
    shapes = golden("densecl_target_detectron2_mask_rcnn_fpn_r50")
    state = stand_ins(shapes)
    state["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)
    state["pixel_std"] = torch.ones(3, 1, 1)
    weights = recognise({"model": state, "__author__": "Detectron2 Model Zoo"}, "file")
    assert weights.conventions["input_format"] == "BGR"
    assert weights.conventions["pixel_std"] == [1.0, 1.0, 1.0]
    assert weights.stated == "pixel_mean and pixel_std of the file"
    assert not weights.unexplained
    assert recognise({"model": stand_ins(shapes)}, "file").conventions is None


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_caffe_style_of_openmmlab_is_in_its_config(key):
    state = stand_ins({f"backbone.{n}": s for n, s in golden("densecl_extracted_backbone_r50").items()})
    text = "model = dict(backbone=dict(type='ResNet', depth=50, style='{}'))"
    content = {"state_dict": state, "meta": {key: text.format("caffe")}}
    weights = recognise(content, "file")
    assert (weights.conventions["input_format"], weights.conventions["stride_in_1x1"]) == ("BGR", True)
    content["meta"] = {key: text.format("pytorch")}
    assert recognise(content, "file").conventions["input_format"] == "RGB"


def test_grouped_trunks_of_detectron():
    """X-101-32x8d: stride in the 3x3 convolution and real deviations, unlike R-50 (detectron2's configs)."""
    import torchvision
    from weight_files import AFFINE, to_caffe2

    with torch.device("meta"):
        state = torchvision.models.resnext101_32x8d().state_dict()
    names = {to_caffe2(n, AFFINE): t for n, t in state.items() if not n.startswith("fc.")}
    names.pop(None)
    conventions = recognise(names, "file").conventions
    assert conventions["stride_in_1x1"] is False
    assert conventions["pixel_std"] == [57.375, 57.12, 58.395]
    assert conventions["norm"] == "affine"
