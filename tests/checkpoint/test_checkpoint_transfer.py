"""Weights into other models: what lands where, and what is refused.

The key lists under tests/data/golden/checkpoints were written by instantiating the authors' classes
(densecl, moco, simsiam, openselfsup, mmpretrain, torchvision, vissl) and detectron2's detectors.
"""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d, get_norm
from detectron2.model_zoo import get_config
from detectron2.modeling import FPN
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn

from densessl.checkpoint.convert import plan_conversion
from densessl.checkpoint.layouts import BY_NAME
from densessl.checkpoint.names import rename
from densessl.checkpoint.recognise import Weights, recognise
from densessl.checkpoint.state import model_meta
from densessl.checkpoint.transfer import load_initial_weights, plan_transfer, target_trunks
from densessl.errors import CheckpointError

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(__file__)), "data", "golden", "checkpoints")
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def golden(name):
    with open(os.path.join(GOLDEN, f"densecl_{name}.json")) as file:
        return json.load(file)


def empty_state(name):
    return {key: torch.empty(shape, device="meta") for key, shape in golden(name).items()}


def resnet(depth=18, norm="BN", out_features=("res5",), stride_in_1x1=False):
    options = {} if depth < 50 else {"stride_in_1x1": stride_in_1x1}
    stages = ResNet.make_default_stages(depth, norm=norm, **options)
    if out_features[-1] == "res4":
        stages = stages[:3]
    return ResNet(BasicStem(norm=norm), stages, out_features=list(out_features))


class Pixels(nn.Module):
    """Base of the small models: colour order and statistics as detectron2's detectors hold them."""

    def __init__(self, mean=MEAN, std=STD, input_format="RGB"):
        super().__init__()
        self.input_format = input_format
        self.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1), False)


class Pretraining(Pixels):
    """The attributes of MoCo: trunk, its momentum copy, head and queue."""

    def __init__(self, depth=18, queue=8, **pixels):
        super().__init__(**pixels)
        self.backbone, self.momentum_backbone = resnet(depth), resnet(depth)
        self.projection_head = nn.Linear(512, 4)
        self.register_buffer("queue", torch.randn(4, queue))


class DensePretraining(Pretraining):
    """A DenseCL beside it: everything of the other, and a dense head."""

    def __init__(self, **options):
        super().__init__(**options)
        self.dense_head = nn.Conv2d(512, 4, 1)


class FPNDetector(Pixels):
    def __init__(self, depth=18, norm="BN", **pixels):
        super().__init__(**pixels)
        bottom_up = resnet(depth, norm, ("res2", "res3", "res4", "res5"))
        self.backbone = FPN(bottom_up, ["res2", "res3", "res4", "res5"], 8)
        self.roi_heads = nn.Linear(2, 2)


class C4Heads(nn.Module):
    def __init__(self, depth, extra_norm):
        super().__init__()
        blocks = ResNet.make_default_stages(depth, norm="BN")[3]
        self.res5 = nn.Sequential(*blocks)
        if extra_norm:
            self.res5.add_module("norm", get_norm("BN", blocks[-1].out_channels))
        self.box_predictor = nn.Linear(2, 2)


class C4Detector(Pixels):
    def __init__(self, depth=18, extra_norm=True, **pixels):
        super().__init__(**pixels)
        self.backbone = resnet(depth, out_features=("res4",))
        self.roi_heads = C4Heads(depth, extra_norm)


def save_ours(model, path, iteration=5):
    content = {"model": model.state_dict(), "iteration": iteration, "meta": model_meta(model, 1)}
    torch.save(content, path)
    return str(path)


def to_torchvision(name):
    """The inverse of the rule under test, written independently from the golden map."""
    return {value: key for key, value in golden("map_backbone_to_detectron2_r50").items()}[name]


def trunk_equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture
def source():
    torch.manual_seed(1)
    return DensePretraining()


# ------------------------------------------------------------------ names


def test_the_318_names():
    table = golden("map_backbone_to_detectron2_r50")
    assert len(table) == 318
    names = BY_NAME["densecl"].names
    assert {name: rename(name, names) for name in table} == table
    assert rename("fc.weight", names) is None
    assert len({rename(name, names) for name in golden("extracted_backbone_r101")}) == 624


LAYOUTS = {
    "full_train_r50": ("densecl-train", None),
    "openselfsup_mocov2_full_train_r50": ("openselfsup-train", None),
    "mmselfsup1x_full_train_r50": ("mmselfsup-train", None),
    "moco_v1_official_r50": ("moco", None),
    "moco_v2_official_r50": ("moco", None),
    "simsiam_official_r50": ("simsiam", None),
    "extracted_backbone_r50": ("torchvision", None),
    "torchvision_r50": ("torchvision", None),
    "vissl_trunk_r50": ("vissl", None),
    "converted_detectron2_pkl_r50": ("detectron2", "OpenSelfSup"),
}


@pytest.fixture(scope="module")
def detectors():
    """The detectors of the golden lists on the meta device, built by detectron2 itself."""
    fpn = get_config("common/models/mask_rcnn_fpn.py").model
    c4 = get_config("common/models/mask_rcnn_c4.py").model
    fpn.backbone.bottom_up.stages.stride_in_1x1 = False
    c4.backbone.stages.stride_in_1x1 = False
    fpn.backbone.bottom_up.stages.norm = fpn.backbone.bottom_up.stem.norm = "BN"
    c4.backbone.stages.norm = c4.backbone.stem.norm = c4.roi_heads.res5.norm = "BN"
    with torch.device("meta"):
        models = {"fpn": instantiate(fpn), "c4": instantiate(c4)}
    models["c4"].roi_heads.res5.add_module("norm", nn.BatchNorm2d(2048, device="meta"))
    return models


@pytest.mark.parametrize("target", ["fpn", "c4"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_fills_the_whole_trunk_of_both_detectors(detectors, layout, target):
    """Exact sets: the trunk's 318 names of detectron2's own detector are loaded, the rest is missing, and
    what is unexpected of the file is everything outside the 318. A full DenseCL training file included."""
    name, author = LAYOUTS[layout]
    state = empty_state(layout)
    content = {"model": state, "__author__": author} if author else {"state_dict": state}
    weights = recognise(content, "file")
    assert weights.layout.name == name
    model = detectors[target]
    values, report = plan_transfer(model, weights)
    names = "mask_rcnn_fpn" if target == "fpn" else "faster_rcnn_c4"
    reference = golden(f"target_detectron2_{names}_r50")
    inner = "backbone.bottom_up." if target == "fpn" else "backbone."
    expected = {
        key
        for key in reference
        if key.startswith((inner, "roi_heads.res5.")) and not key.startswith("roi_heads.res5.norm")
    }
    assert len(expected) == 318
    assert set(report.loaded) == set(values) == expected
    assert set(report.missing) == set(model.state_dict()) - expected
    assert all(list(values[key].shape) == reference[key] for key in expected)
    assert len(report.unexpected) == len(state) - 318
    assert not [*report.trunk_missing, *report.trunk_unused, *report.wrong_shape]


def test_missing_names_in_the_golden_detectors():
    """The published counts: 14 (here 15: the extra norm's batch counter is a tensor too) and 96 names of the
    detectors do not come from the trunk (methods: DenseCL converter run on both)."""
    c4, fpn = golden("target_detectron2_faster_rcnn_c4_r50"), golden("target_detectron2_mask_rcnn_fpn_r50")
    assert len(c4) - 318 == 15
    assert len([key for key in fpn if not key.startswith("backbone.bottom_up.")]) == 112
    assert len([k for k in fpn if not k.startswith("backbone.bottom_up.") and "num_batches" not in k]) == 96


# ------------------------------------------------------------------ our own checkpoints


def test_into_a_feature_pyramid(tmp_path, source):
    target = FPNDetector()
    head = target.roi_heads.weight.clone()
    report = load_initial_weights(target, save_ours(source, tmp_path / "m.pth"))
    assert trunk_equal(target.backbone.bottom_up.state_dict(), source.backbone.state_dict())
    assert torch.equal(target.roi_heads.weight, head)
    assert not report.exact
    assert len(report.loaded) == len(source.backbone.state_dict())
    assert all(name.startswith(("backbone.fpn_", "roi_heads.")) for name in report.missing)
    assert not any(name.startswith("backbone.") for name in report.unexpected)


@pytest.mark.parametrize("extra_norm", [False, True])
def test_into_a_c4_detector(tmp_path, source, extra_norm):
    target = C4Detector(extra_norm=extra_norm)
    report = load_initial_weights(target, save_ours(source, tmp_path / "m.pth"))
    wanted = source.backbone.state_dict()
    got = {**target.backbone.state_dict()}
    got.update(
        {f"res5.{k}": v for k, v in target.roi_heads.res5.state_dict().items() if not k.startswith("norm")}
    )
    assert trunk_equal(got, wanted)
    assert len([name for name in report.missing if ".res5.norm." in name]) == (5 if extra_norm else 0)


def test_extra_norm_is_not_left_behind_silently(tmp_path, source):
    """res5 was trained with a norm behind it: without that norm its features have another scale."""
    path = save_ours(C4Detector(extra_norm=True), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"res5\.norm\.weight \(extra norm behind res5\)"):
        load_initial_weights(FPNDetector(), path)
    report = load_initial_weights(FPNDetector(), path, allow_partial=True)
    assert not report.trunk_missing


def test_c4_into_a_feature_pyramid_and_back(tmp_path, source):
    first, second, third = C4Detector(extra_norm=False), FPNDetector(), C4Detector(extra_norm=False)
    load_initial_weights(first, save_ours(source, tmp_path / "a.pth"))
    load_initial_weights(second, save_ours(first, tmp_path / "b.pth"))
    assert trunk_equal(second.backbone.bottom_up.state_dict(), source.backbone.state_dict())
    load_initial_weights(third, save_ours(second, tmp_path / "c.pth"))
    assert torch.equal(third.roi_heads.res5[1].conv2.weight, source.backbone.res5[1].conv2.weight)


def test_into_a_bare_resnet(tmp_path, source):
    target = resnet()
    load_initial_weights(target, save_ours(source, tmp_path / "m.pth"))
    assert trunk_equal(target.state_dict(), source.backbone.state_dict())


def test_into_the_same_architecture_by_equal_names(tmp_path, source):
    target = DensePretraining()
    report = load_initial_weights(target, save_ours(source, tmp_path / "m.pth"), require_all=True)
    assert report.exact
    assert trunk_equal(target.state_dict(), source.state_dict())
    assert not report.missing
    assert not report.unexpected


def test_densecl_into_moco_by_equal_names(tmp_path, source):
    target = Pretraining()
    report = load_initial_weights(target, save_ours(source, tmp_path / "m.pth"), require_all=True)
    assert report.exact
    assert torch.equal(target.queue, source.queue)
    assert report.unexpected == ["dense_head.weight", "dense_head.bias"]


def test_moco_into_densecl_gives_the_trunk_to_both_copies(tmp_path):
    source, target = Pretraining(), DensePretraining()
    queue = target.queue.clone()
    report = load_initial_weights(target, save_ours(source, tmp_path / "m.pth"))
    assert not report.exact
    assert trunk_equal(target.backbone.state_dict(), source.backbone.state_dict())
    assert trunk_equal(target.momentum_backbone.state_dict(), source.backbone.state_dict())
    assert torch.equal(target.queue, queue)
    assert "momentum_backbone.stem.conv1.weight" in report.unexpected


def test_evaluation_requires_every_tensor(tmp_path, source):
    path = save_ours(source, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"tensors of the model find no value: backbone\.fpn_lateral"):
        load_initial_weights(FPNDetector(), path, require_all=True)


def test_run_directory_means_its_newest_valid_checkpoint(tmp_path, source):
    save_ours(Pretraining(depth=34), tmp_path / "model_0000001.pth")
    save_ours(source, tmp_path / "model_0000002.pth")
    (tmp_path / "model_0000003.pth").write_bytes(b"")
    assert load_initial_weights(resnet(), str(tmp_path)).path.endswith("model_0000002.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_initial_weights(resnet(), str(tmp_path / "empty"))


def test_frozen_norm_has_no_batch_counter_and_says_so(tmp_path, source):
    target = FPNDetector(norm="FrozenBN")
    assert isinstance(target.backbone.bottom_up.stem.conv1.norm, FrozenBatchNorm2d)
    report = load_initial_weights(target, save_ours(source, tmp_path / "m.pth"))
    assert len(report.counters_unused) == 20
    assert all(name.endswith("num_batches_tracked") for name in report.counters_unused)
    row = next(line for line in report.table().splitlines() if "FrozenBatchNorm" in line)
    assert row.split()[-1] == "20"
    back = load_initial_weights(resnet(), save_ours(target, tmp_path / "frozen.pth"))
    assert not back.trunk_missing
    assert len(back.missing) == 20


def test_table_counts_by_group(tmp_path, source, caplog):
    caplog.set_level("INFO")
    report = load_initial_weights(FPNDetector(), save_ours(source, tmp_path / "m.pth"))
    rows = {tuple(line.split()) for line in report.table().splitlines()}
    assert ("backbone.bottom_up.stem", "6", "0", "0", "0") in rows
    assert ("backbone.fpn_lateral", "0", "8", "0", "0") in rows
    assert ("(file)", "queue", "0", "0", "0", "1") in rows
    assert ("total", "120", "18", "0", "125") in rows
    assert report.table() in caplog.text


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("saved", "built", "expected"),
    [
        (
            18,
            34,
            r"trunk is ResNet-18, the model's ResNet-34\. .*find no value: backbone\.bottom_up\.res2\.2",
        ),
        (34, 18, r"trunk tensors of the file have no place in the model: backbone\.res2\.2"),
        (18, 50, r"trunk is ResNet-18, the model's ResNet-50\. .*tensors have another shape"),
    ],
)
def test_other_depths_are_refused_and_change_nothing(tmp_path, saved, built, expected):
    path = save_ours(Pretraining(depth=saved), tmp_path / "m.pth")
    target = FPNDetector(depth=built)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=expected):
        load_initial_weights(target, path)
    assert trunk_equal(target.state_dict(), before)
    report = load_initial_weights(target, path, allow_partial=True)
    assert report.loaded
    assert not trunk_equal(target.state_dict(), before)


def test_r101_into_r50_is_refused():
    """Every tensor of a ResNet-50 has its name and shape in a ResNet-101; only 306 too many betray it."""
    weights = recognise({"state_dict": empty_state("extracted_backbone_r101")}, "file")
    with torch.device("meta"):
        model = resnet(50)
    _, report = plan_transfer(model, weights)
    assert not report.trunk_missing
    assert len(report.trunk_unused) + len(report.counters_unused) == 624 - 318
    assert all(name.startswith("layer3.") for name in report.trunk_unused)


def test_one_missing_trunk_tensor_is_refused(tmp_path, source):
    state = source.state_dict()
    del state["backbone.res4.1.conv2.weight"]
    torch.save({"model": state, "meta": model_meta(source, 1)}, tmp_path / "m.pth")
    with pytest.raises(
        CheckpointError, match=r"1 tensors of the model find no value: .*res4\.1\.conv2\.weight"
    ):
        load_initial_weights(FPNDetector(), str(tmp_path / "m.pth"))


def test_other_queue_size_is_refused(tmp_path, source):
    path = save_ours(source, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"queue \(4, 8\) -> \(4, 16\)"):
        load_initial_weights(DensePretraining(queue=16), path)


def test_another_head_size_is_refused(tmp_path):
    source, target = C4Detector(extra_norm=False), C4Detector(extra_norm=False)
    target.roi_heads.box_predictor = nn.Linear(2, 5)
    path = save_ours(source, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"roi_heads\.box_predictor\.weight \(2, 2\) -> \(5, 2\)"):
        load_initial_weights(target, path)
    load_initial_weights(target, path, allow_partial=True)
    assert trunk_equal(target.backbone.state_dict(), source.backbone.state_dict())


def test_unknown_names_are_refused(tmp_path):
    torch.save({"foo.weight": torch.zeros(2)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"its 1 tensors \(foo\.weight, \.\.\.\) belong to no layout"):
        load_initial_weights(resnet(), str(tmp_path / "m.pth"))
    torch.save({"epoch": 3}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="no weights that can be found; its top level is epoch"):
        load_initial_weights(resnet(), str(tmp_path / "m.pth"))


def test_nothing_fits_is_refused_even_when_partial(tmp_path):
    torch.save({"stem.conv1.weight": torch.zeros(2)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="No tensor of"):
        load_initial_weights(resnet(), str(tmp_path / "m.pth"), allow_partial=True)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"does not exist; check train\.init_checkpoint"):
        load_initial_weights(resnet(), str(tmp_path / "none.pth"))


def test_address_that_cannot_be_fetched():
    with pytest.raises(CheckpointError, match=r"http://127\.0\.0\.1:1/x\.pth cannot be fetched: .*refused"):
        load_initial_weights(resnet(), "http://127.0.0.1:1/x.pth")


def test_file_without_anything_in_it(tmp_path):
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="top level is empty"):
        load_initial_weights(resnet(), str(tmp_path / "empty.pth"))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ({"input_format": "BGR"}, "input_format: RGB in the file, BGR in the model"),
        ({"mean": MEAN[::-1]}, r"pixel_mean: \[123\.675, 116\.28, 103\.53\] in the file, \[103\.53"),
        ({"std": [1.0, 1.0, 1.0]}, r"pixel_std: \[58\.395.* in the file, \[1\.0, 1\.0, 1\.0\] in the model"),
    ],
)
def test_other_input_is_refused(tmp_path, source, pixels, expected):
    with pytest.raises(CheckpointError, match=expected):
        load_initial_weights(FPNDetector(**pixels), save_ours(source, tmp_path / "m.pth"))


def test_stride_placement_is_compared(tmp_path):
    model = nn.ModuleDict({"backbone": resnet(50)})
    path = save_ours(model, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="stride_in_1x1: False in the file, True in the model"):
        load_initial_weights(resnet(50, stride_in_1x1=True), path)


# ------------------------------------------------------------------ foreign files


@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder_q.0.", "module.encoder_q.", "module.encoder."])
def test_torchvision_names_end_where_they_belong(tmp_path, prefix):
    torch.manual_seed(2)
    source = resnet(50)
    state = {prefix + to_torchvision(key): value for key, value in source.state_dict().items()}
    state[f"{prefix}fc.weight"] = torch.zeros(3)
    if prefix == "backbone.":  # the momentum encoder of a full training file is another trunk
        other = {key.replace("backbone.", "encoder_k.0."): torch.zeros_like(v) for key, v in state.items()}
        state = {**other, **state}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "m.pth.tar")
    target = C4Detector(depth=50)
    report = load_initial_weights(target, str(tmp_path / "m.pth.tar"))
    assert len(report.loaded) == 318
    assert torch.equal(target.backbone.stem.conv1.weight, source.stem.conv1.weight)
    assert torch.equal(target.roi_heads.res5[2].conv3.norm.bias, source.res5[2].conv3.norm.bias)


def test_torchvision_model_gives_the_same_features(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(3)
    theirs = resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "m.pth")
    ours = resnet(18)
    load_initial_weights(ours, str(tmp_path / "m.pth"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image)))))
        expected = theirs.layer4(theirs.layer3(theirs.layer2(expected)))
        features = ours.eval()(image)["res5"]
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


def test_pickle_of_the_published_converter(tmp_path, source):
    model = {key: value.numpy() for key, value in source.backbone.state_dict().items()}
    content = {"model": model, "__author__": "OpenSelfSup", "matching_heuristics": True}
    (tmp_path / "r18.pkl").write_bytes(pickle.dumps(content))
    target = FPNDetector()
    load_initial_weights(target, str(tmp_path / "r18.pkl"))
    assert trunk_equal(target.backbone.bottom_up.state_dict(), source.backbone.state_dict())
    with pytest.raises(CheckpointError, match="input_format: RGB in the file, BGR in the model"):
        load_initial_weights(FPNDetector(input_format="BGR"), str(tmp_path / "r18.pkl"))


@pytest.mark.parametrize("head", [("fc",), ("fc.0", "fc.2")], ids=["torchvision", "MOCO"])
def test_heads_that_the_published_converters_call_stem_fc(tmp_path, source, caplog, head):
    """densecl.md, section 5: names without "layer" get "stem.", heads included; detectron2 ignores them."""
    model = {key: value.numpy() for key, value in source.backbone.state_dict().items()}
    for name in head:
        model |= {f"stem.{name}.weight": np.zeros((2, 4), "f"), f"stem.{name}.bias": np.zeros(2, "f")}
    content = {"model": model, "__author__": "MOCO", "matching_heuristics": True}
    (tmp_path / "r18.pkl").write_bytes(pickle.dumps(content))
    target = FPNDetector()
    with caplog.at_level("INFO"):
        report = load_initial_weights(target, str(tmp_path / "r18.pkl"))
    assert trunk_equal(target.backbone.bottom_up.state_dict(), source.backbone.state_dict())
    assert len(report.unexpected) == 2 * len(head)
    assert "(file) classifier or projection head" in caplog.text
    weights = recognise(content, "file")
    assert [len(names) for names in weights.dropped.values()] == [2 * len(head)]
    assert len(plan_conversion(weights, BY_NAME["torchvision"], "file").values) == 120


def test_caffe2_pickle_is_refused(tmp_path):
    content = {"model": {"stem.conv1.weight": np.zeros(3)}, "__author__": "Caffe2"}
    (tmp_path / "r50.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="belong to no layout known"):
        load_initial_weights(resnet(), str(tmp_path / "r50.pkl"))


def test_a_file_that_does_not_state_its_colours_is_said(tmp_path, source, caplog):
    torch.save(source.backbone.state_dict(), tmp_path / "m.pth")
    load_initial_weights(FPNDetector(), str(tmp_path / "m.pth"))
    assert "does not say its colour order" in caplog.text


def test_an_entry_that_is_no_tensor_is_named(tmp_path, source):
    state = {**source.backbone.state_dict(), "note": "hello"}
    torch.save({"model": state}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="the entry note of its weights is a str"):
        load_initial_weights(FPNDetector(), str(tmp_path / "m.pth"))


def test_a_model_without_backbone_needs_its_own_checkpoint():
    weights = Weights(BY_NAME["detectron2"], "file", {"w": torch.zeros(1)}, {})
    model = nn.Linear(2, 2)
    assert target_trunks(model) == []
    with pytest.raises(CheckpointError, match="has no attribute `backbone`"):
        plan_transfer(model, weights, "file")
