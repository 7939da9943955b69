"""tools/convert_checkpoint.py on files: round trips, formats, refusals, proofs on a photograph."""

import os
import pickle
import runpy
import subprocess
import sys
import time
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file
from weight_files import AFFINE, contents, prefixed, small_trunk, to_caffe2, to_detectron2, write

from densessl.checkpoint import writing
from densessl.checkpoint.layouts import BY_NAME, LAYOUTS
from densessl.checkpoint.reading import read_weights
from densessl.checkpoint.recognise import recognise
from densessl.checkpoint.transfer import load_initial_weights
from densessl.checkpoint.verification import build_trunk, load_photograph
from densessl.engine.launch import run_main
from densessl.errors import CheckpointError, ConfigError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
TOOL = os.path.join(ROOT, "tools", "convert_checkpoint.py")
main = runpy.run_path(TOOL)["main"]
ROUND_TRIPS = [layout.name for layout in LAYOUTS if layout.name not in ("vitdet", "detectron2-picie")]
# without heads and other parts these look like another layout with the same names
LOOKS_LIKE = {
    "timm": "torchvision",
    "swav": "torchvision",
    "picie": "mdc",
    "densesiam": "mdc",
    "densesiam-picie": "mdc",
    "densecl-train": "openmmlab",
    "openselfsup-train": "openmmlab",
    "mmselfsup-train": "openmmlab",
}


WITH_DECODER = ("picie", "mdc", "densesiam", "densesiam-picie")


@pytest.fixture(scope="module")
def trunk():
    return small_trunk()


@pytest.fixture(scope="module")
def files(trunk):
    return contents(trunk)


def ending(layout):
    return BY_NAME[layout].suffixes[0]


def convert(*arguments):
    main([str(argument) for argument in arguments])


def read(path, layout=None):
    return recognise(read_weights(str(path)), str(path), layout)


def same(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype for name in left
    )


# ------------------------------------------------------------------ both directions of every layout


@pytest.mark.parametrize("layout", ROUND_TRIPS)
def test_round_trip_of_files(tmp_path, trunk, files, layout):
    source = write(tmp_path / f"source{ending(layout)}", files[layout])
    given = ["--from", layout] if layout in ("timm", "openselfsup-query") else []
    weights = read(source, layout if given else None)
    assert weights.layout.name == layout
    hub, back = tmp_path / "hub.safetensors", tmp_path / f"back{ending(layout)}"
    convert(source, hub, "--to", "detectron2-picie" if layout in WITH_DECODER else "detectron2", *given)
    found = {n: t for n, t in read(hub).trunk_tensors().items() if not n.startswith("fpn_")}
    if not layout.startswith("caffe2"):
        assert same(found, {to_detectron2(name): tensor for name, tensor in trunk.items()})
    convert(hub, back, "--to", layout)
    returned = read(back)
    assert returned.layout.name == LOOKS_LIKE.get(layout, layout)
    parts = {ours: t for ours, t in weights.trunk_tensors().items() if not ours.startswith("linear.")}
    assert same(returned.trunk_tensors(), parts)
    assert found.keys() == {name for name in parts if not name.startswith("fpn_")}
    kept = {theirs for ours, theirs in weights.trunk.items() if ours in parts}
    assert returned.tensors.keys() == kept


@pytest.mark.parametrize("layout", [name for name in ROUND_TRIPS if name not in ("openselfsup-query",)])
def test_the_same_layout_keeps_everything(tmp_path, files, layout):
    source = write(tmp_path / f"source{ending(layout)}", files[layout])
    copy = tmp_path / f"copy{ending(layout)}"
    given = ["--from", layout] if layout == "timm" else []
    convert(source, copy, "--to", layout, *given)
    assert same(read(copy, layout if given else None).tensors, read(source).tensors)


@pytest.mark.parametrize("ending", [".pth", ".pkl", ".safetensors"])
def test_formats_say_how_the_weights_are_used(tmp_path, files, ending):
    source = write(tmp_path / "moco.pth.tar", files["moco"])
    convert(source, tmp_path / f"out{ending}", "--to", "detectron2")
    weights = read(tmp_path / f"out{ending}")
    assert weights.stated == "stated in the file"
    assert weights.conventions == {
        "input_format": "RGB",
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
        "stride_in_1x1": False,
        "norm": "BN",
    }


def test_a_bare_state_dict_carries_its_conventions_and_loads_as_ever(tmp_path, files):
    """No extra key, which a strict load would refuse: an attribute, as torch's own `_metadata`."""
    content = {**files["detectron2"], "densessl": {"input_format": "BGR", "pixel_mean": [1.0, 2.0, 3.0]}}
    source = write(tmp_path / "source.pth", content)
    convert(source, tmp_path / "out.pth", "--to", "torchvision")
    plain = torch.load(tmp_path / "out.pth", weights_only=True)
    assert type(plain) is OrderedDict
    assert all(isinstance(value, torch.Tensor) for value in plain.values())
    assert read(tmp_path / "out.pth").conventions["pixel_mean"] == [1.0, 2.0, 3.0]
    convert(tmp_path / "out.pth", tmp_path / "again.safetensors", "--to", "hf-resnet")
    assert read(tmp_path / "again.safetensors").conventions["input_format"] == "BGR"


def test_detectron2_pickle(tmp_path, files):
    source = write(tmp_path / "densecl.pth", files["densecl-train"])
    convert(source, tmp_path / "r.pkl", "--to", "detectron2")
    with open(tmp_path / "r.pkl", "rb") as file:
        content = pickle.load(file)
    assert content["__author__"] == "densessl"
    assert content["matching_heuristics"] is True
    assert type(content["model"]["stem.conv1.weight"]).__module__ == "numpy"


def test_our_own_checkpoint_as_target(tmp_path, files):
    source = write(tmp_path / "simsiam.pth.tar", files["simsiam"])
    convert(source, tmp_path / "ours.pth", "--to", "densessl")
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert content["meta"]["format"] == "densessl"
    assert content["meta"]["input_format"] == "RGB"
    assert all(name.startswith("backbone.") for name in content["model"])


def test_the_report(tmp_path, files, capsys):
    source = write(tmp_path / "c.pth", files["densecl-train"])
    convert(source, tmp_path / "r.pkl", "--to", "detectron2")
    out = capsys.readouterr().out
    assert "DenseCL training checkpoint (also mmselfsup 0.x) (densecl-train)" in out
    assert "kept       102  (0 under their names, 102 renamed)" in out
    assert "  res5            24  backbone.layer4.0.conv1.weight -> res5.0.conv1.weight" in out
    assert "dropped    103  momentum encoder: encoder_k.0.conv1.weight" in out
    assert "dropped    102  the trunk a second time" in out
    assert "dropped      3  queues: queue, queue_ptr and 1 more" in out
    assert "not weights, left out: epoch, optimizer, meta" in out
    assert "stages.stride_in_1x1     = False  (MODEL.RESNETS.STRIDE_IN_1X1)" in out
    assert "model.input_format       = RGB  (INPUT.FORMAT)" in out


def test_a_training_layout_as_target_says_that_it_holds_the_backbone(tmp_path, files, capsys):
    source = write(tmp_path / "t.pth", files["torchvision"])
    convert(source, tmp_path / "d.pth", "--to", "densecl-train")
    assert "A densecl-train file made of a trunk holds the backbone part only" in capsys.readouterr().out


# ------------------------------------------------------------------ proofs against the source libraries


def randomised(model):
    """Seeded weights, and norm statistics of a trained network's kind: unequal, none of them 0 or 1."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
            module.num_batches_tracked.fill_(11)
    return model.state_dict()


def library_state(library, depth, **options):
    torch.manual_seed(1)
    if library == "torchvision":
        import torchvision

        return randomised(getattr(torchvision.models, f"resnet{depth}")())
    if library == "timm":
        import timm

        return randomised(timm.create_model(f"resnet{depth}"))
    import transformers

    basic = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
    config = transformers.ResNetConfig(**(basic if depth == 18 else {}), **options)
    return randomised(transformers.ResNetForImageClassification(config))


@pytest.mark.parametrize(
    ("library", "depth", "target", "ending"),
    [
        ("torchvision", 18, "detectron2", ".pkl"),
        ("torchvision", 50, "detectron2-c4", ".pth"),
        ("timm", 18, "densessl", ".pth"),
        ("timm", 50, "detectron2", ".safetensors"),
        ("transformers", 18, "detectron2-fpn", ".pth"),
        ("transformers", 50, "torchvision", ".pth"),
    ],
)
def test_equal_features_on_a_photograph(tmp_path, capsys, library, depth, target, ending):
    source = write(tmp_path / "source.pth", library_state(library, depth))
    given = ["--from", "timm"] if library == "timm" else []
    convert(source, tmp_path / f"out{ending}", "--to", target, "--verify", *given)
    out = capsys.readouterr().out
    assert f"verified against {library} " in out
    worst = float(out.split("largest difference ")[1].split()[0])
    assert worst <= 1e-5
    # features of a photograph through four stages: not a comparison of zeros
    assert float(out.split("per stage")[1].split("res5 ")[1].split(" of ")[1].split()[0].rstrip(",")) > 0.1


def test_transformers_with_its_stride_in_the_first_convolution(tmp_path, capsys):
    """The tensors do not tell; config.json beside the file does, and the proof fails without it."""
    state = library_state("transformers", 50, downsample_in_bottleneck=True)
    folder = tmp_path / "hub"
    folder.mkdir()
    source = write(folder / "model.safetensors", state)
    (folder / "config.json").write_text('{"model_type": "resnet", "downsample_in_bottleneck": true}')
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    convert(source, tmp_path / "out.pkl", "--to", "detectron2", "--verify")
    assert "verified against transformers" in capsys.readouterr().out
    weights = read(tmp_path / "out.pkl")
    assert weights.conventions["stride_in_1x1"] is True
    assert weights.conventions["pixel_mean"] == [127.5, 127.5, 127.5]
    with pytest.raises(CheckpointError, match=r"stride in the 1x1 convolutions .* Convert to detectron2"):
        convert(source, tmp_path / "tv.pth", "--to", "torchvision")
    with torch.no_grad():
        image = torch.randn(1, 3, 64, 64)
        weights.conventions["stride_in_1x1"] = False
        other = build_trunk(weights)(image)["res5"]
        weights.conventions["stride_in_1x1"] = True
        assert not torch.allclose(build_trunk(weights)(image)["res5"], other, atol=1e-3)


@pytest.mark.parametrize("network", ["group norm", "grouped", "folded"])
def test_equal_features_of_other_norms_and_groups(tmp_path, capsys, network):
    from torchvision import models

    torch.manual_seed(2)
    if network == "grouped":
        state, expected = randomised(models.resnext50_32x4d()), "ResNeXt-50 32x4d"
    elif network == "group norm":
        model = models.resnet18(norm_layer=lambda channels: torch.nn.GroupNorm(32, channels))
        state = {
            n: t + 0.1 * torch.randn(t.shape) if t.dim() == 1 else t for n, t in model.state_dict().items()
        }
        expected = '"GN"'
    else:
        trunk = {n: t for n, t in randomised(models.resnet18()).items() if not n.startswith("fc.")}
        state, expected = {to_caffe2(name, AFFINE): t for name, t in trunk.items()}, '"FrozenBN" only'
        state.pop(None)
    source = write(tmp_path / f"source{'.pkl' if network == 'folded' else '.pth'}", state)
    convert(source, tmp_path / "o.pkl", "--to", "detectron2", "--verify")
    out = capsys.readouterr().out
    assert "verified against torchvision" in out
    assert expected in out


def test_torchvision_loads_what_was_written_strictly(tmp_path):
    from torchvision.models import resnet18

    state = library_state("torchvision", 18)
    source = write(tmp_path / "source.pth", state)
    convert(source, tmp_path / "hf.safetensors", "--to", "hf-resnet-classifier")
    convert(tmp_path / "hf.safetensors", tmp_path / "tv.pth", "--to", "torchvision")
    model = resnet18()
    model.load_state_dict(torch.load(tmp_path / "tv.pth", weights_only=True))
    assert same(model.state_dict(), state)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_target_library_computes_the_same(tmp_path, library):
    """From torchvision: the other library takes the file strictly, and gives the same logits."""
    from torchvision.models import resnet18

    state = library_state("torchvision", 18)
    source, target = write(tmp_path / "source.pth", state), str(tmp_path / "out.safetensors")
    convert(source, target, "--to", "timm" if library == "timm" else "hf-resnet-classifier")
    ours = resnet18().eval()
    ours.load_state_dict(state)
    if library == "timm":
        import timm

        theirs = timm.create_model("resnet18").eval()
    else:
        import transformers

        basic = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
        config = transformers.ResNetConfig(**basic, num_labels=1000)
        theirs = transformers.ResNetForImageClassification(config).eval()
    theirs.load_state_dict(load_file(target))
    photograph = load_photograph("", None)
    with torch.no_grad():
        expected, found = ours(photograph), theirs(photograph)
    found = getattr(found, "logits", found)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_timm_settings_of_a_recipe(tmp_path, capsys):
    source = write(tmp_path / "source.pth", library_state("timm", 18))
    convert(
        source,
        tmp_path / "o.pth",
        "--to",
        "densessl",
        "--from",
        "timm",
        "--model",
        "resnet34.ra4_e3600_r224_in1k",
    )
    assert "model.pixel_mean         = [127.5, 127.5, 127.5]" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--model resnet9: timm .* has no such pretrained model"):
        convert(source, tmp_path / "o.pth", "--to", "densessl", "--from", "timm", "--model", "resnet9")


def test_a_wrong_conversion_fails_its_proof(tmp_path, monkeypatch):
    source = write(tmp_path / "source.pth", library_state("torchvision", 18))
    target = tmp_path / "out.pth"
    target.write_text("what stood here before")
    real = writing._alone
    monkeypatch.setattr(writing, "_alone", lambda tensor: real(tensor + 0.001 * tensor.is_floating_point()))
    with pytest.raises(CheckpointError, match="compute something else. Not verified against torchvision"):
        convert(source, target, "--to", "detectron2", "--verify")
    assert target.read_text() == "what stood here before"
    assert sorted(os.listdir(tmp_path)) == ["out.pth", "source.pth"]


def test_proof_on_a_photograph_of_the_user(tmp_path, capsys):
    from PIL import Image

    Image.effect_noise((300, 260), 90).convert("RGB").save(tmp_path / "photo.png")
    source = write(tmp_path / "source.pth", library_state("torchvision", 18))
    convert(source, tmp_path / "o.pth", "--to", "densessl", "--verify", tmp_path / "photo.png")
    assert "verified against torchvision" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--verify .*source.pth: not an image"):
        convert(source, tmp_path / "o.pth", "--to", "densessl", "--verify", source)


def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch):
    from densessl.checkpoint import verification

    source = write(tmp_path / "source.pth", library_state("torchvision", 18))
    find = verification.importlib.util.find_spec
    monkeypatch.setattr(
        verification.importlib.util, "find_spec", lambda name: None if name == "timm" else find(name)
    )
    with pytest.raises(
        ConfigError, match=r"--verify needs timm, which is not installed: install densessl\[convert\]"
    ):
        convert(source, tmp_path / "o.pth", "--to", "densessl", "--from", "timm", "--verify")
    assert not (tmp_path / "o.pth").exists()


# ------------------------------------------------------------------ refusals


def timm_state(name):
    import timm

    return timm.create_model(name, num_classes=3).state_dict()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18d", r"deep stem \(conv1\.0\.weight"),
        ("seresnet18", r"attention in the blocks \(layer1\.0\.se\.fc1\.weight"),
        (
            "ecaresnet26t",
            r"deep stem \(conv1\.0\.weight.*attention in the blocks \(layer1\.0\.se\.conv\.weight",
        ),
    ],
)
def test_other_stems_and_attention_are_refused_by_name(tmp_path, name, expected):
    state = timm_state(name)
    if "conv1.weight" not in state:  # not to be recognised at all; asked for by --from it has no such tensor
        source = write(tmp_path / "source.pth", state)
        with pytest.raises(CheckpointError, match=rf"no timm file .* it has no conv1\.weight.*{expected}"):
            convert(source, tmp_path / "o.pth", "--to", "detectron2", "--from", "timm")
        with pytest.raises(CheckpointError, match=rf"no layout known here: .*{expected}"):
            convert(source, tmp_path / "o.pth", "--to", "detectron2")
    state.setdefault("conv1.weight", torch.zeros(64, 3, 7, 7))
    source = write(tmp_path / "source.pth", state)
    with pytest.raises(CheckpointError, match=f"computes another function than a plain trunk: .*{expected}"):
        convert(source, tmp_path / "o.pth", "--to", "detectron2")
    assert not (tmp_path / "o.pth").exists()


def changed(state, **new):
    return {**state, **new}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: changed(s, **{"layer5.0.conv1.weight": torch.zeros(2)}), r"6\.0\.conv1|no whole"),
        (lambda s: changed(s, mystery=torch.zeros(2)), "1 tensors are explained by no rule .*: mystery"),
        (
            lambda s: {n: t for n, t in s.items() if n != "layer3.0.bn2.running_var"},
            r"no whole .*: 1 tensors missing: res4\.0\.conv2\.norm\.running_var",
        ),
        (
            lambda s: changed(s, **{"conv1.weight": torch.zeros(64, 3, 3, 3)}),
            r"of another shape: stem\.conv1\.weight \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)",
        ),
        (
            lambda s: changed(s, **{"layer2.0.conv1.bias": torch.zeros(8)}),
            r"1 tensors without place: res3\.0\.conv1\.bias",
        ),
        (
            lambda s: changed(s, **{"layer1.0.ls1.gamma": torch.zeros(2)}),
            r"LayerScale \(layer1\.0\.ls1\.gamma\)",
        ),
    ],
)
def test_trunks_that_are_not_whole_or_plain(tmp_path, trunk, change, expected):
    source = write(tmp_path / "source.pth", change(trunk))
    with pytest.raises(CheckpointError, match=expected):
        convert(source, tmp_path / "o.pth", "--to", "detectron2")
    assert os.listdir(tmp_path) == ["source.pth"]


def test_a_copy_in_the_same_layout_must_be_whole_too(tmp_path, trunk):
    source = write(tmp_path / "source.pth", {n: t for n, t in trunk.items() if n != "layer3.0.bn2.weight"})
    with pytest.raises(
        CheckpointError, match=r"no whole .*: 1 tensors missing: res4\.0\.conv2\.norm\.weight"
    ):
        convert(source, tmp_path / "o.safetensors", "--to", "torchvision")


def test_two_copies_that_differ(tmp_path, files, trunk):
    state = dict(files["densecl-train"]["state_dict"])
    state["encoder_q.0.layer1.0.bn1.bias"] = torch.zeros(4)
    source = write(tmp_path / "source.pth", {"state_dict": state})
    with pytest.raises(
        CheckpointError, match=r"encoder_q\.0\.layer1\.0\.bn1\.bias differs from backbone\.layer1"
    ):
        convert(source, tmp_path / "o.pth", "--to", "detectron2")
    convert(source, tmp_path / "o.pth", "--to", "detectron2", "--from", "openselfsup-query")
    assert not read(tmp_path / "o.pth").tensors["res2.0.conv1.norm.bias"].any()


def test_extra_norm_of_a_c4_detector(tmp_path, files):
    content = {**files["detectron2-c4"], "model": {**files["detectron2-c4"]["model"]}}
    content["model"]["roi_heads.res5.norm.weight"] = torch.zeros(2048)
    source = write(tmp_path / "source.pth", content)
    with pytest.raises(CheckpointError, match=r"extra norm behind res5 \(roi_heads\.res5\.norm\.weight\)"):
        convert(source, tmp_path / "o.pth", "--to", "torchvision")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite(tmp_path, files, value):
    state = {name: tensor.clone() for name, tensor in files["torchvision"].items()}
    state["layer2.0.conv1.weight"][0, 0] = value
    source = write(tmp_path / "source.pth", state)
    expected = r"1 tensors of the trunk hold NaN or infinite values: layer2\.0\.conv1\.weight\. .*diverged"
    with pytest.raises(CheckpointError, match=expected):
        convert(source, tmp_path / "o.pkl", "--to", "detectron2")
    with pytest.raises(CheckpointError, match=expected):
        load_initial_weights(build_trunk(recognise(files["torchvision"], "file")), str(source))
    assert os.listdir(tmp_path) == ["source.pth"]


def test_another_kind_of_network_as_target(tmp_path, files):
    source = write(tmp_path / "source.pth", files["torchvision"])
    with pytest.raises(CheckpointError, match=r"is ResNet.*vitdet file .* has a backbone\.net\.patch_embed"):
        convert(source, tmp_path / "o.pkl", "--to", "vitdet")
    transformer = {"model": {"backbone.net.patch_embed.proj.weight": torch.zeros(8, 3, 16, 16)}}
    source = write(tmp_path / "vit.pth", transformer)
    for layout in ("detectron2", "detectron2-fpn", "densessl"):
        with pytest.raises(
            CheckpointError, match=r"is no ResNet; .* has a (backbone\.)?\S*stem\.conv1\.weight"
        ):
            convert(source, tmp_path / "o.pth", "--to", layout)
    assert sorted(os.listdir(tmp_path)) == ["source.pth", "vit.pth"]


def test_folded_norms_go_to_detectron2_only(tmp_path, files):
    source = write(tmp_path / "source.pkl", files["caffe2"])
    with pytest.raises(CheckpointError, match="no running statistics .* Convert to a detectron2 layout"):
        convert(source, tmp_path / "o.pth", "--to", "hf-resnet")
    convert(source, tmp_path / "o.pkl", "--to", "detectron2")
    assert read(tmp_path / "o.pkl").norm() == "affine"


def test_a_file_that_cannot_say_its_conventions(tmp_path, files):
    source = write(tmp_path / "source.pth", files["torchvision"])
    with pytest.raises(CheckpointError, match="caffe2-bn file cannot say .* input_format=RGB"):
        convert(source, tmp_path / "o.pkl", "--to", "caffe2-bn")


def test_wrong_paths_are_said_before_any_work(tmp_path, files):
    source = write(tmp_path / "source.pth", files["torchvision"])
    os.link(source, tmp_path / "twin.pth")
    (tmp_path / "folder.pth").mkdir()
    cases = (
        (source, source, "IN and OUT are the same file"),
        (source, tmp_path / "twin.pth", "IN and OUT are the same file"),
        (source, tmp_path / "no" / "o.pth", "folder .*no of OUT does not exist"),
        (source, tmp_path / "folder.pth", "is a folder"),
        (source, tmp_path / "o.txt", r"a detectron2 file ends in \.pkl, \.pth, \.safetensors"),
        (tmp_path / "none.pth", tmp_path / "o.pth", r"none\.pth does not exist; check IN"),
    )
    for given, target, expected in cases:
        with pytest.raises(CheckpointError, match=expected):
            convert(given, target, "--to", "detectron2")
    with pytest.raises(CheckpointError, match="is no SwAV file"):
        convert(source, tmp_path / "o.pth", "--to", "detectron2", "--from", "swav")


def test_a_folder_that_cannot_be_written(tmp_path, files, monkeypatch):
    source = write(tmp_path / "source.pth", files["torchvision"])
    monkeypatch.setattr(writing.os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(CheckpointError, match="of OUT cannot be written; choose another OUT"):
        convert(source, tmp_path / "o.pth", "--to", "detectron2")


def test_a_full_disk_leaves_nothing_behind(tmp_path, files, monkeypatch):
    source = write(tmp_path / "source.pth", files["torchvision"])

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("densessl.checkpoint.files.os.fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device .*choose another OUT"):
        convert(source, tmp_path / "o.pth", "--to", "detectron2")
    assert os.listdir(tmp_path) == ["source.pth"]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("ending", [".pth", ".pkl"])
def test_nothing_is_unpickled(tmp_path, files, ending):
    bomb = Bomb(tmp_path / "touched")
    if ending == ".pth":
        torch.save({**files["detectron2"], "__author__": bomb}, tmp_path / "bomb.pth")
    else:
        (tmp_path / "bomb.pkl").write_bytes(pickle.dumps({**files["caffe2"], "author": bomb}))
    with pytest.raises(CheckpointError, match=r"names .*open.* Nothing in the file was executed"):
        convert(tmp_path / f"bomb{ending}", tmp_path / "o.pth", "--to", "torchvision")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("ending", [".pth", ".pkl", ".safetensors"])
def test_truncated_files(tmp_path, files, ending):
    content = files["detectron2"] if ending != ".safetensors" else files["hf-resnet"]
    source = write(tmp_path / f"source{ending}", content)
    os.truncate(source, os.path.getsize(source) // 2)
    with pytest.raises(CheckpointError, match="is damaged"):
        convert(source, tmp_path / "o.pth", "--to", "torchvision")


@pytest.mark.parametrize(
    ("layout", "right", "wrong"),
    [
        ("moco", ".pth", ".pkl"),
        ("moco", ".pth", ".safetensors"),
        ("caffe2", ".pkl", ".pth"),
        ("hf-resnet", ".safetensors", ".pth"),
    ],
)
def test_renamed_files_are_judged_by_their_content(tmp_path, files, layout, right, wrong):
    source = write(tmp_path / f"source{right}", files[layout])
    renamed = tmp_path / f"renamed{wrong}"
    os.rename(source, renamed)
    convert(renamed, tmp_path / "o.pth", "--to", "detectron2")
    assert read(renamed).layout.name == layout


def test_foreign_files(tmp_path):
    source = write(tmp_path / "gpt.pth", {"wte.weight": torch.zeros(2), "h.0.attn.bias": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"its 2 tensors \(wte\.weight, .*\) belong to no layout known"):
        convert(source, tmp_path / "o.pth", "--to", "torchvision")
    source = write(tmp_path / "v.pth", {"classy_state_dict": {"base_model": {"heads": 1}}})
    with pytest.raises(
        CheckpointError, match=r"base_model\. holds no model, as a VISSL file does|holds no model"
    ):
        convert(source, tmp_path / "o.pth", "--to", "torchvision")


def test_a_view_is_written_at_its_own_size(tmp_path, trunk):
    """torch.save writes the whole storage behind a view of a flat buffer."""
    flat = torch.ones(4_000_000)
    state = {**trunk, "conv1.weight": flat[: 64 * 3 * 49].view(64, 3, 7, 7)}
    source = write(tmp_path / "source.pth", state)
    convert(source, tmp_path / "o.pth", "--to", "densecl")
    assert os.path.getsize(tmp_path / "o.pth") < os.path.getsize(source) - 15_000_000
    assert same(read(tmp_path / "o.pth").tensors, state)


def test_safetensors_holds_shared_tensors_twice(tmp_path, files):
    source = write(tmp_path / "shared.pth", files["densecl-train"])
    convert(source, tmp_path / "o.safetensors", "--to", "densecl-train")
    assert same(read(tmp_path / "o.safetensors").tensors, files["densecl-train"]["state_dict"])


# ------------------------------------------------------------------ the command


def test_help_is_immediate_and_brings_no_torch():
    code = f"import runpy, sys; sys.argv = ['x', '--help']; runpy.run_path({TOOL!r}, run_name='__main__')"
    probe = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
    start = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", probe + code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
        check=True,
    )
    assert result.stderr.strip() == "False"
    assert all(layout.name in result.stdout for layout in LAYOUTS)
    assert (
        time.perf_counter() - start < 5
    )  # under 1 s on a free machine; the promise is tested by the imports


def test_one_line_and_a_status(tmp_path, capsys):
    missing = str(tmp_path / "none.pth")
    with pytest.raises(SystemExit) as stop:
        run_main(lambda: main([missing, str(tmp_path / "o.pth"), "--to", "torchvision"]))
    assert stop.value.code == 4
    assert capsys.readouterr().err == f"CheckpointError: Checkpoint {missing} does not exist; check IN.\n"


def test_prefixes_of_data_parallel(tmp_path, trunk):
    """torchvision's reference script saves from inside DataParallel."""
    source = write(tmp_path / "source.pth", {"state_dict": prefixed("module.", trunk)})
    assert read(source).layout.name == "torchvision"
    convert(source, tmp_path / "o.pth", "--to", "torchvision")
    assert read(tmp_path / "o.pth").tensors.keys() == prefixed("module.", trunk).keys()
