"""The files we write, read by detectron2's own DetectionCheckpointer.

It only warns, so the exact sets of missing names are compared: 14 of the C4 detector of the DenseCL authors
and 96 of their FPN detector are new there, none of them in the ResNet.
"""

import logging
import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.model_zoo import get_config
from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
from torch import nn
from weight_files import AFFINE, FULL_BN, golden, small_trunk, stand_ins, to_caffe2, write

from densessl.checkpoint.job import convert_file
from densessl.checkpoint.transfer import load_initial_weights
from densessl.errors import CheckpointError

# names are what is compared; the large detectors have no memory for values
pytestmark = pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter:UserWarning")
COUNTER = "num_batches_tracked"


class Recording(DetectionCheckpointer):
    """Keeps what fvcore only logs."""

    def _log_incompatible_keys(self, incompatible):
        self.incompatible = incompatible


def read_with_detectron2(model, path):
    """(missing, unexpected) names, batch counters left out, after loading as detectron2's trainers do."""
    checkpointer = Recording(model)
    checkpointer.load(str(path))
    found = checkpointer.incompatible
    assert not found.incorrect_shapes
    return [{n for n in names if COUNTER not in n} for names in (found.missing_keys, found.unexpected_keys)]


@pytest.fixture(scope="module")
def detectors():
    """The detectors of the published comparison, without memory, with the names of the recorded lists."""
    fpn, c4 = (get_config(f"common/models/mask_rcnn_{kind}.py").model for kind in ("fpn", "c4"))
    trunk = fpn.backbone.bottom_up
    trunk.stages.stride_in_1x1 = c4.backbone.stages.stride_in_1x1 = False
    trunk.stages.norm = trunk.stem.norm = "BN"
    c4.backbone.stages.norm = c4.backbone.stem.norm = c4.roi_heads.res5.norm = "BN"
    fpn.backbone.norm = "BN"
    heads = fpn.roi_heads
    heads.box_head.conv_dims, heads.box_head.fc_dims, heads.box_head.conv_norm = [256] * 4, [1024], "BN"
    heads.mask_head.conv_norm = "BN"
    c4.roi_heads.num_classes, c4.roi_heads.mask_head = 20, None
    with torch.device("meta"):
        models = {"fpn": instantiate(fpn), "c4": instantiate(c4)}
    models["c4"].roi_heads.res5.add_module("norm", nn.BatchNorm2d(2048, device="meta"))
    for kind, names in (("fpn", "mask_rcnn_fpn"), ("c4", "faster_rcnn_c4")):
        shapes = golden(f"densecl_target_detectron2_{names}_r50")
        assert {k: list(v.shape) for k, v in models[kind].state_dict().items()} == shapes
    return models


@pytest.fixture(scope="module")
def full_checkpoint(tmp_path_factory):
    """The 974 names of a DenseCL training checkpoint; every tensor a view of one number."""
    state = stand_ins(golden("densecl_full_train_r50"))
    path = tmp_path_factory.mktemp("full") / "epoch_800.pth"
    torch.save({"meta": {}, "state_dict": state, "optimizer": {}}, path)
    assert path.stat().st_size < 3_000_000
    return path


@pytest.fixture(scope="module")
def converted(full_checkpoint, tmp_path_factory):
    """The same trunk as files of the three layouts that detectron2 reads."""
    folder = tmp_path_factory.mktemp("converted")
    paths = {}
    for layout, ending in (("detectron2", ".pkl"), ("detectron2-c4", ".pth"), ("detectron2-fpn", ".pth")):
        paths[layout] = folder / f"{layout}{ending}"
        convert_file(str(full_checkpoint), str(paths[layout]), layout, say=len)
    return paths


NEW = {
    "c4": ("proposal_generator.rpn_head.", "roi_heads.box_predictor.", "roi_heads.res5.norm."),
    "fpn": ("backbone.fpn_", "proposal_generator.", "roi_heads."),
}


@pytest.mark.parametrize(
    ("kind", "layout", "number"),
    [
        ("c4", "detectron2", 14),
        ("c4", "detectron2-c4", 14),
        ("fpn", "detectron2", 96),
        ("fpn", "detectron2-fpn", 96),
    ],
)
def test_only_the_new_parts_are_missing(detectors, converted, kind, layout, number):
    missing, unexpected = read_with_detectron2(detectors[kind], converted[layout])
    assert len(missing) == number
    assert all(name.startswith(NEW[kind]) for name in missing)
    assert not unexpected


def test_what_detectron2_makes_of_the_training_checkpoint_itself(detectors, full_checkpoint, tmp_path):
    """The trap, as a control that the test above can fail: the authors' converter on the wrong file."""
    state = torch.load(full_checkpoint)["state_dict"]

    def rename(name):  # the published rule, without removing the prefix
        name = name if "layer" in name else f"stem.{name}"
        for t in (1, 2, 3, 4):
            name = name.replace(f"layer{t}", f"res{t + 1}").replace(f"bn{t}", f"conv{t}.norm")
        return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")

    content = {rename(name): tensor.numpy() for name, tensor in state.items() if "queue" not in name}
    with open(tmp_path / "trap.pkl", "wb") as file:
        pickle.dump({"model": content, "__author__": "OpenSelfSup", "matching_heuristics": True}, file)
    missing, _ = read_with_detectron2(detectors["c4"], tmp_path / "trap.pkl")
    resnet = {n for n in missing if n.startswith(("backbone.stem.", "roi_heads.res5."))}
    assert len(resnet) == 59


def small_stages(norm, stride_in_1x1):
    stages, channels = [], 64
    for index in range(4):
        out = 256 << index
        options = {
            "bottleneck_channels": 4 << index,
            "stride_in_1x1": stride_in_1x1,
            "norm": norm,
            "stride_per_block": [1 if index == 0 else 2],
        }
        stages.append(
            ResNet.make_stage(BottleneckBlock, 1, in_channels=channels, out_channels=out, **options)
        )
        channels = out
    return stages


def small_detector(norm, stride_in_1x1=False, **pixels):
    """An FPN detector with a trunk of the size of `small_trunk`."""
    cfg = get_config("common/models/mask_rcnn_fpn.py").model
    trunk = cfg.backbone.bottom_up
    trunk.stages = L(small_stages)(norm=norm, stride_in_1x1=stride_in_1x1)
    trunk.stem.norm = norm
    cfg.backbone.out_channels = 8
    cfg.roi_heads.box_head.fc_dims, cfg.roi_heads.mask_head.conv_dims = [4, 4], [4, 4]
    for key, value in pixels.items():
        cfg[key] = value
    return instantiate(cfg)


RGB = {"input_format": "RGB", "pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
BGR = {"input_format": "BGR", "pixel_mean": [103.53, 116.28, 123.675], "pixel_std": [1.0, 1.0, 1.0]}


def trunk_of(model):
    return model.backbone.bottom_up.state_dict()


def test_the_values_arrive(tmp_path):
    source = write(
        tmp_path / "moco.pth", {"state_dict": {f"module.encoder_q.{k}": v for k, v in small_trunk().items()}}
    )
    convert_file(source, str(tmp_path / "r.pkl"), "detectron2", say=len)
    theirs, ours = small_detector("BN", **RGB), small_detector("BN", **RGB)
    read_with_detectron2(theirs, tmp_path / "r.pkl")
    load_initial_weights(ours, source)
    assert all(torch.equal(trunk_of(ours)[name], value) for name, value in trunk_of(theirs).items())
    assert torch.equal(trunk_of(ours)["res5.0.conv3.weight"], small_trunk()["layer4.0.conv3.weight"])


# ------------------------------------------------------------------ Detectron's files: BGR, folded BN


def caffe2_file(path, leaves):
    trunk = small_trunk(3)
    names = {to_caffe2(name, leaves): tensor.numpy() for name, tensor in trunk.items()}
    names.pop(None, None)
    content = {**names, "fc1000_w": torch.zeros(4, 8).numpy(), "conv1_b": torch.ones(64).numpy()}
    content["res2_0_branch2a_b"] = torch.zeros(4).numpy()
    with open(path, "wb") as file:
        pickle.dump(content, file)
    return str(path), trunk


@pytest.mark.parametrize("leaves", [AFFINE, FULL_BN], ids=["folded", "full"])
def test_detectrons_names_as_detectron2_reads_them(tmp_path, leaves):
    path, _ = caffe2_file(tmp_path / "R-50.pkl", leaves)
    theirs, ours, again = (small_detector("FrozenBN", stride_in_1x1=True, **BGR) for _ in range(3))
    missing, unexpected = read_with_detectron2(theirs, path)
    assert not {name for name in missing if name.startswith("backbone.bottom_up.") and "running" not in name}
    report = load_initial_weights(ours, path)
    assert len(report.folded) == (0 if leaves is FULL_BN else 34)
    for name, value in trunk_of(theirs).items():
        # detectron2 sets the variance of a folded norm to 1; the exact identity is 1 - eps
        torch.testing.assert_close(trunk_of(ours)[name], value, atol=1.1e-5, rtol=0)
    convert_file(path, str(tmp_path / "d2.pkl"), "detectron2", say=len)
    load_initial_weights(again, str(tmp_path / "d2.pkl"))
    assert all(torch.equal(trunk_of(again)[name], value) for name, value in trunk_of(ours).items())


def test_folded_norm_is_exactly_scale_and_shift(tmp_path):
    path, trunk = caffe2_file(tmp_path / "R-50.pkl", AFFINE)
    model = small_detector("FrozenBN", stride_in_1x1=True, **BGR)
    load_initial_weights(model, path)
    image = torch.randn(1, 3, 32, 32)
    norm = model.backbone.bottom_up.stem.conv1.norm
    expected = nn.functional.conv2d(image, trunk["conv1.weight"], stride=2, padding=3)
    expected = expected * trunk["bn1.weight"].view(1, -1, 1, 1) + trunk["bn1.bias"].view(1, -1, 1, 1)
    found = norm(nn.functional.conv2d(image, model.backbone.bottom_up.stem.conv1.weight, stride=2, padding=3))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("norm", "stride", "pixels", "expected"),
    [
        (
            "FrozenBN",
            True,
            RGB,
            r'input_format: BGR in the file, RGB in the model; .* Set model\.input_format="BGR" '
            r"model\.pixel_mean=\[103\.53,116\.28,123\.675\] model\.pixel_std=\[1\.0,1\.0,1\.0\]\.",
        ),
        (
            "FrozenBN",
            False,
            BGR,
            r"stride_in_1x1: True in the file, False in the model\. "
            r"Set model\.backbone\.bottom_up\.stages\.stride_in_1x1=True",
        ),
        (
            "BN",
            True,
            BGR,
            r"norm: affine \(BN folded into scale and shift\) in the file, BN in the model\. "
            r'Set model\.backbone\.bottom_up\.stages\.norm="FrozenBN" '
            r'model\.backbone\.bottom_up\.stem\.norm="FrozenBN"',
        ),
    ],
)
def test_other_conventions_are_refused_with_what_to_set(tmp_path, norm, stride, pixels, expected):
    path, _ = caffe2_file(tmp_path / "R-50.pkl", AFFINE)
    with pytest.raises(CheckpointError, match=expected):
        load_initial_weights(small_detector(norm, stride_in_1x1=stride, **pixels), path)


def test_group_norm_against_batch_norm(tmp_path):
    names = {to_caffe2(k, AFFINE, "gn", "conv1"): v.numpy() for k, v in small_trunk().items()}
    names.pop(None)
    with open(tmp_path / "gn.pkl", "wb") as file:
        pickle.dump(names, file)
    with pytest.raises(
        CheckpointError, match=r'norm: GN in the file, BN in the model\. Set .*stages\.norm="GN"'
    ):
        load_initial_weights(small_detector("BN", **BGR), str(tmp_path / "gn.pkl"))


def test_foreign_file_and_its_report_in_the_trainer(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    trunk = small_trunk()
    state = {f"module.encoder_q.{name}": tensor for name, tensor in trunk.items()}
    state.update({"module.queue": torch.zeros(2), "module.encoder_k.conv1.weight": torch.zeros(2)})
    source = write(tmp_path / "moco.pth.tar", {"state_dict": state})
    report = load_initial_weights(small_detector("FrozenBN", **RGB), source)
    assert "MoCo official; trunk rule" in caplog.text
    rows = {" ".join(line.split()) for line in report.table().splitlines()}
    assert {"(file) queues 0 0 0 1", "(file) momentum encoder 0 0 0 1"} <= rows
    state["module.mystery"] = torch.zeros(2)
    source = write(tmp_path / "other.pth.tar", {"state_dict": state})
    with pytest.raises(CheckpointError, match=r"does not have .*: module\.mystery \(not known\)"):
        load_initial_weights(small_detector("BN", **RGB), source)
    assert load_initial_weights(small_detector("BN", **RGB), source, allow_partial=True).loaded
