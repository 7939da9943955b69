"""The hook leaves no trace in a run, the suite finds known features, and bad input is named."""

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine.train_loop import HookBase
from detectron2.layers import ShapeSpec
from diagnostics_textures import SIZE, TEXTURES, build
from PIL import Image
from torch import nn

from densessl.config import load_config
from densessl.diagnostics.features import TrunkFeatures, evaluation_mode
from densessl.diagnostics.hook import DiagnosticsHook
from densessl.diagnostics.images import BOXES, CLASS, SEMANTIC, load_images
from densessl.diagnostics.offline import diagnose, find_run, format_table
from densessl.diagnostics.suite import NEEDS, DiagnosticsSuite
from densessl.engine import defaults
from densessl.engine.signals import TrainingInterrupted
from densessl.errors import CheckpointError, ConfigError, DataError
from densessl.modeling.backbone import build_resnet

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
RECIPES = {name: f"{name}_R_50_coco_800ep_quick" for name in ("densecl", "simsiam")}
VAL, TRAIN = "diagnostics_hook_val", "diagnostics_hook_train"
ALL = sorted(set(NEEDS) - {"stereo"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    build(folder, TRAIN, 16, seed=0, held_out=False)
    build(folder, VAL, 8, seed=1, held_out=True)
    return folder


def options(output: Path, folder: Path, *more: str) -> list[str]:
    return [
        f"train.output_dir={output}",
        f"dataloader.train.dataset.source={TRAIN}",
        "dataloader.train.mapper.crop_size=32",
        "model.backbone.out_features=[res3]",
        "model.in_feature=res3",
        "model.projection_head.in_channels=128",
        "train.max_iter=6",
        "train.checkpointer.period=100",
        "train.log_period=1",
        *more,
    ]


def train(method: str, output: Path, folder: Path, hooks: list, *more: str, resume: bool = False) -> dict:
    cfg = load_config(
        str(ROOT / f"configs/quick_schedules/{RECIPES[method]}.py"), options(output, folder, *more)
    )
    cfg.train.hooks = hooks
    defaults.run(cfg, Namespace(resume=resume, eval_only=False))
    return torch.load(output / "model_final.pth", weights_only=True)


def hook(**changes) -> dict:
    return L(DiagnosticsHook)(
        **{"dataset": VAL, "diagnostics": ALL, "period": 2, "num_images": 8, "image_size": SIZE} | changes
    )


def assert_equal(first, second, path="state") -> None:
    assert type(first) is type(second), path
    if isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            assert_equal(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, pair in enumerate(zip(first, second)):
            assert_equal(*pair, f"{path}[{index}]")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    else:
        assert first == second, path


class KeepModes(HookBase):
    """Notes the mode of every part after each step; comes after the diagnostics."""

    seen: list = []

    def after_step(self):
        self.seen.append([part.training for part in self.trainer.module.modules()])


@pytest.mark.parametrize("method", RECIPES)
def test_a_run_does_not_notice(method, folder, tmp_path):
    """Weights, statistics, queues, optimiser, random states, order of the data and losses, bit for bit."""
    KeepModes.seen = []
    states = [
        train(method, tmp_path / "without", folder, [L(KeepModes)()]),
        train(method, tmp_path / "with", folder, [hook(), L(KeepModes)()]),
    ]
    for key in ("model", "optimizer", "iteration", "rng", "data"):
        assert_equal(states[0][key], states[1][key], key)
    logs = [state["trainer"]["storage"] for state in states]
    for name in logs[0]:
        if "loss" in name or "/" in name:
            assert logs[0][name] == logs[1][name], name
    assert KeepModes.seen[:6] == KeepModes.seen[6:]
    rows = [json.loads(line) for line in (tmp_path / "with" / "metrics.json").read_text().splitlines()]
    logged = {row["iteration"]: row for row in rows if "diagnostics/retrieval_miou" in row}
    assert sorted(logged) == [0, 1, 3, 5]  # before the first step, and after 2, 4 and 6
    names = {name for name in rows[0] | rows[1] if name.startswith("diagnostics/")}
    assert {f"diagnostics/{name}" for name in ("linear_miou", "cluster_miou", "corloc", "knn_top1")} < names
    assert all(np.isfinite(row[name]) for row in logged.values() for name in names)


class StopAfter(HookBase):
    """Sends this process SIGTERM during a given iteration."""

    def __init__(self, iteration: int):
        self.iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_resumed_run_scores_the_same(folder, tmp_path):
    """The start is not scored again; all numbers equal those of the run that was not stopped."""
    node = hook(diagnostics=["spectrum", "correspondence", "retrieval"])
    train("simsiam", tmp_path / "whole", folder, [node])
    with pytest.raises(TrainingInterrupted):
        train("simsiam", tmp_path / "parts", folder, [node, L(StopAfter)(iteration=2)])
    train("simsiam", tmp_path / "parts", folder, [node], resume=True)

    def scores(name: str) -> list[dict]:
        lines = (tmp_path / name / "metrics.json").read_text().splitlines()
        keep = ("iteration", "diagnostics/")
        rows = [{k: v for k, v in json.loads(line).items() if k.startswith(keep)} for line in lines]
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows if len(row) > 1]

    assert [row["iteration"] for row in scores("parts")] == [0, 1, 3, 5]
    assert scores("parts") == scores("whole")


def test_modes_come_back_one_by_one():
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Sequential(nn.Dropout(), nn.BatchNorm2d(1)))
    model[1][1].eval()  # a frozen part
    before = [part.training for part in model.modules()]
    with evaluation_mode(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == before


def labels_as_features(images: torch.Tensor, known: dict) -> torch.Tensor:
    """(N, K, 8, 8) one-hot of the label in each cell, found by the picture itself."""
    maps = [known[image.numpy().tobytes()] for image in images]
    cells = torch.from_numpy(np.stack(maps))[:, 4::8, 4::8].long()
    return nn.functional.one_hot(cells, len(TEXTURES)).permute(0, 3, 1, 2).float()


def test_suite_on_features_that_are_the_labels(folder):
    names = ["retrieval", "linear", "clusters", "discovery"]
    suite = DiagnosticsSuite(VAL, names, memory_dataset=TRAIN, num_images=16, image_size=SIZE)
    known = {}
    for part in (suite.probe, suite.memory):
        known |= {image.numpy().tobytes(): labels for image, labels in zip(part.images, part.labels)}
    found = suite(lambda images: labels_as_features(images, known))
    assert found == {name: pytest.approx(100) for name in found}
    assert set(found) == {"cluster_miou", "corloc", "retrieval_miou", "linear_miou"}


def test_half_of_one_set_is_the_memory(folder):
    suite = DiagnosticsSuite(VAL, ["retrieval", "knn"], num_images=8, image_size=SIZE)
    features = torch.zeros(8, 5, 8, 8)
    # queries (odd) look like a memory image (even) of one class only
    classes = torch.from_numpy(suite.probe.classes)
    features[torch.arange(8), classes] = 1.0
    expected = np.mean([c in classes[::2].tolist() for c in classes[1::2].tolist()]) * 100
    assert suite(lambda images: features)["knn_top1"] >= expected


def test_stereo_of_a_shifted_picture(tmp_path):
    """A picture and the same moved by 12 pixels, three cells of four pixels."""
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 256, (64, 76, 3), dtype=np.uint8)
    Image.fromarray(wide[:, :64]).save(tmp_path / "left.png")
    Image.fromarray(wide[:, 12:]).save(tmp_path / "right.png")
    np.savez(tmp_path / "disparity.npz", disparity=np.full((64, 64), 12.0, np.float32))
    record = {"file_name": str(tmp_path / "left.png"), "right_file_name": str(tmp_path / "right.png")}
    record |= {"disparity_file_name": str(tmp_path / "disparity.npz"), "image_id": 1}
    _register("diagnostics_stereo", [record])
    node = {"stereo_dataset": "diagnostics_stereo", "stereo_size": 64, "image_size": 64, "num_images": 2}
    _register("diagnostics_one", [record, record])
    suite = DiagnosticsSuite("diagnostics_one", ["stereo"], **node)

    def extract(images):  # the pixels of each cell
        return nn.functional.unfold(images.float() - 128, 4, stride=4).reshape(len(images), -1, 16, 16)

    found = suite(extract)
    assert found["stereo"] == 100
    assert found["stereo_chance"] < 10
    still = suite(lambda images: extract(images[:1]).expand(2, -1, -1, -1))
    assert still["stereo"] == 0


def _register(name: str, records: list[dict], **metadata) -> str:
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(**metadata)
    return name


def test_labels_drawn_from_instances(folder):
    """Records without label maps: polygons, smaller on top, 0 for background; crowds are left out."""

    def polygon(x0, y0, x1, y1, category, **more):
        box = {"bbox": [x0, y0, x1, y1], "bbox_mode": 0, "category_id": category}
        return box | {"segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]], "iscrowd": 0} | more

    image = {"file_name": str(folder / f"{VAL}_000.png"), "image_id": 0}
    found = [polygon(0, 0, 32, 32, 1), polygon(0, 0, 16, 16, 0), polygon(32, 32, 64, 64, 1, iscrowd=1)]
    name = _register("diagnostics_drawn", [{**image, "annotations": found}], thing_classes=["a", "b"])
    probe = load_images(name, 4, SIZE, {SEMANTIC, CLASS, BOXES})
    expected = np.zeros((SIZE, SIZE), int)
    expected[:32, :32], expected[:16, :16] = 2, 1
    np.testing.assert_array_equal(probe.labels[0], expected)
    assert probe.num_classes == 3
    assert probe.classes.tolist() == [2]
    np.testing.assert_allclose(probe.boxes[0], [[0, 0, 0.5, 0.5], [0, 0, 0.25, 0.25]])


def test_unlabelled_photographs_will_do_for_the_default(folder):
    suite = DiagnosticsSuite(str(folder), num_images=4, image_size=SIZE)
    found = suite(TrunkFeatures(build_resnet(18, out_features=["res2"]), "res2", *torch.ones(2, 3)))
    assert {"image_rank", "cell_rank", "correspondence", "alignment"} < set(found)
    assert 1 <= found["image_rank"] <= 4


class Passed(nn.Module):
    """A trunk that gives back its input."""

    def output_shape(self):
        return {"input": ShapeSpec(channels=3, stride=1)}

    def forward(self, images):
        return {"input": images}


def test_pixels_reach_the_trunk_as_the_model_says():
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2)
    model = nn.Module()
    model.backbone = Passed()
    model.pixel_mean, model.pixel_std = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 8.0])
    expected = (images.float() - model.pixel_mean.view(3, 1, 1)) / model.pixel_std.view(3, 1, 1)
    torch.testing.assert_close(TrunkFeatures.of_model(model)(images), expected, rtol=0, atol=0)
    model.input_format = "BGR"
    torch.testing.assert_close(TrunkFeatures.of_model(model)(images.flip(1)), expected, rtol=0, atol=0)
    del model.pixel_std
    with pytest.raises(ConfigError, match="has no pixel_std"):
        TrunkFeatures.of_model(model)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"dataset": "coral_vall"}, DataError, "neither a path nor a registered data set"),
        ({"diagnostics": ["retrival"]}, ConfigError, "Nearest: retrieval"),
        ({"diagnostics": []}, ConfigError, "empty"),
        ({"dataset": "diagnostics_bare", "diagnostics": ["linear"]}, DataError, "has no semantic labels"),
        ({"dataset": "diagnostics_bare", "diagnostics": ["knn"]}, DataError, "has no semantic labels"),
        ({"dataset": "diagnostics_bare", "diagnostics": ["discovery"]}, DataError, "has no object boxes"),
        ({"memory_dataset": "diagnostics_other"}, DataError, "5 classes .* 2; they must be parts of one"),
        ({"diagnostics": ["stereo"], "stereo_dataset": VAL}, DataError, "has no disparity"),
        ({"num_images": 1}, ConfigError, "num_images=1"),
        ({"period": 0}, ConfigError, "period=0"),
        ({"period": 1}, ConfigError, "greater than train.log_period=1"),
        ({"image_size": 60}, ConfigError, "multiple of the stride 8"),
        ({"feature": "res9"}, ConfigError, "the backbone returns res3"),
    ],
)
def test_bad_input_is_named_before_training(changes, error, words, folder, tmp_path):
    bare = {"file_name": str(folder / f"{VAL}_000.png"), "image_id": 0}
    _register("diagnostics_bare", [bare, bare])
    labelled = [{**bare, "sem_seg_file_name": str(folder / "two.png"), "annotations": []}] * 2
    Image.fromarray(np.ones((SIZE, SIZE), np.uint8)).save(folder / "two.png")
    _register("diagnostics_other", labelled, stuff_classes=["x", "y"])
    with pytest.raises(error, match=words):
        train("simsiam", tmp_path, folder, [hook(**changes)])
    assert not (tmp_path / "model_final.pth").exists()


def test_label_map_of_too_many_classes_is_named(folder):
    record = {"file_name": str(folder / f"{VAL}_000.png"), "image_id": 0}
    record["sem_seg_file_name"] = str(folder / f"{VAL}_000_labels.png")
    _register("diagnostics_few", [record], stuff_classes=["only"])
    with pytest.raises(DataError, match="values below 1 or 255"):
        load_images("diagnostics_few", 1, SIZE, {SEMANTIC})


@pytest.mark.parametrize("diagnostic", ["linear", "knn"])
def test_labels_that_say_nothing_are_named_before_training(diagnostic, folder):
    values = {"none": 255, "some": 1}
    for name, value in values.items():
        Image.fromarray(np.full((SIZE, SIZE), value, np.uint8)).save(folder / f"{name}.png")
    none, some = (
        {"file_name": str(folder / f"{VAL}_000.png"), "sem_seg_file_name": str(folder / f"{name}.png")}
        for name in values
    )
    _register("diagnostics_blank", [none, none], stuff_classes=["x", "y"])
    _register("diagnostics_half", [some, none], stuff_classes=["x", "y"])
    with pytest.raises(DataError, match="has no semantic labels"):
        DiagnosticsSuite("diagnostics_blank", [diagnostic], image_size=SIZE)
    with pytest.raises(DataError, match="every second image of 'diagnostics_half' is without labels"):
        DiagnosticsSuite("diagnostics_half", [diagnostic], image_size=SIZE)
    DiagnosticsSuite("diagnostics_half", [diagnostic], "diagnostics_half", image_size=SIZE)


def test_problems_are_warned_about_while_training(folder, tmp_path):
    """A trunk whose weights are zero gives the same features everywhere."""

    class Zero(HookBase):
        def after_step(self):
            for value in self.trainer.module.backbone.parameters():
                value.data.mul_(0).add_(1e-3)

    def zero_hook():
        return Zero()

    train("simsiam", tmp_path, folder, [L(zero_hook)(), hook(diagnostics=["spectrum"])])
    log = (tmp_path / "log.txt").read_text()
    assert "WARNING: Collapse: all cells have nearly the same features" in log


def test_offline_equals_the_hook(folder, tmp_path):
    train("simsiam", tmp_path, folder, [hook(diagnostics=["spectrum", "retrieval"])])
    given = {"diagnostics": ["spectrum", "retrieval"], "num_images": 8, "image_size": SIZE}
    found = diagnose([str(tmp_path), str(tmp_path / "model_final.pth")], dataset=VAL, device="cpu", **given)
    last = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])
    for name in ("cell_rank", "retrieval_miou", "uniformity"):
        assert found[str(tmp_path)][name] == pytest.approx(last[f"diagnostics/{name}"], rel=1e-6)
        assert found[str(tmp_path)][name] == found[str(tmp_path / "model_final.pth")][name]
    table = format_table(found)
    assert table.splitlines()[0].count("|") == 5
    assert "untrained" in table
    assert "model_final.pth" in table
    with pytest.raises(CheckpointError, match="no such run directory or checkpoint"):
        find_run(str(tmp_path / "nothing.pth"))


@pytest.mark.slow
def test_command_and_two_processes(folder, tmp_path):
    """Two processes do not wait for each other for ever, and give the numbers once; then the command."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(8):
        (pictures / f"{index}.png").symlink_to(folder / f"{TRAIN}_{index:03d}.png")
    node = f"{{_target_: densessl.diagnostics.hook.DiagnosticsHook, dataset: {pictures}, period: 2, "
    node += f"num_images: 4, image_size: {SIZE}}}"
    changes = [text for text in options(tmp_path / "two", folder) if "source" not in text]
    config = str(ROOT / f"configs/quick_schedules/{RECIPES['simsiam']}.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}

    def call(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    script = str(ROOT / "tools/lazyconfig_train_net.py")
    source = f"dataloader.train.dataset.source={pictures}"
    call(script, "--config-file", config, "--num-gpus", "2", *changes, source, f"train.hooks=[{node}]")
    rows = [json.loads(line) for line in (tmp_path / "two/metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "diagnostics/cell_rank" in row] == [0, 1, 3, 5]

    output = tmp_path / "numbers.json"
    table = call(
        str(ROOT / "tools/diagnose.py"),
        *(str(tmp_path / "two"), "--dataset", str(pictures), "--diagnostics", "spectrum,correspondence"),
        *("--num-images", "4", "--image-size", str(SIZE), "--device", "cpu", "--output", str(output)),
    )
    found = json.loads(output.read_text())["results"]
    assert list(found) == ["untrained", str(tmp_path / "two")]
    assert f"{found['untrained']['cell_rank']:.2f}" in table
