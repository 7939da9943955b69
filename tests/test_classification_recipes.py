"""Classification recipes: published values, and CPU-sized twins that train, evaluate and resume exactly."""

import json
import os
import signal
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine.train_loop import HookBase

from densessl.config import load_config
from densessl.engine import defaults
from densessl.engine.signals import TrainingInterrupted
from densessl.errors import CheckpointError, ConfigError, DataError

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "configs/Classification").glob("*.py"))
STEPS = 4

# class, batch, lr, weight decay, epochs, steps per epoch, {epoch: factor of the rate}
EXPECTED = {
    "linear_R_50_imagenet_moco": (
        *("LinearClassifier", 256, 30.0, 0.0, 100, 5004),
        {0: 1, 59: 1, 60: 0.1, 79: 0.1, 80: 0.01, 99: 0.01},
    ),
    "linear_R_50_imagenet_simsiam": (
        *("LinearClassifier", 4096, 1.6, 0.0, 90, 312),
        {0: 1, 30: 0.75, 45: 0.5, 60: 0.25},
    ),
    "multi_stage_R_50_imagenet": (
        *("MultiStageClassifier", 256, 0.01, 1e-4, 90, 5004),
        {0: 1, 29: 1, 30: 0.1, 60: 0.01, 89: 0.01},
    ),
    "semi_supervised_R_50_imagenet_1pct": (
        *("ImageClassifier", 256, 0.01, 5e-4, 20, 50),
        {0: 1, 11: 1, 12: 0.2, 16: 0.04, 19: 0.04},
    ),
    "semi_supervised_R_50_imagenet_10pct": (
        *("ImageClassifier", 256, 0.01, 5e-4, 20, 500),
        {0: 1, 11: 1, 12: 0.2, 16: 0.04, 19: 0.04},
    ),
}
KNN = "knn_R_50_imagenet"


def load(name, *overrides):
    return load_config(str(ROOT / f"configs/Classification/{name}.py"), overrides)


def twin(name, output, *overrides):
    path = ROOT / f"configs/quick_schedules/{name}_quick.py"
    return load_config(str(path), [f"train.output_dir={output}", *overrides])


def test_every_recipe_is_known_here():
    assert sorted([*EXPECTED, KNN]) == RECIPES


@pytest.mark.parametrize("name", EXPECTED)
def test_recipe(name):
    kind, batch, lr, decay, epochs, steps, factors = EXPECTED[name]
    cfg = load(name)
    assert cfg.dataloader.train.total_batch_size == batch
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (lr, decay)
    assert cfg.optimizer.momentum == 0.9
    assert cfg.train.max_iter == epochs * steps
    assert name in cfg.train.output_dir
    train, test = cfg.dataloader.train.mapper, cfg.dataloader.test.mapper
    assert (train.crop_size, tuple(train.crop_scale), train.flip_prob) == (224, (0.08, 1.0), 0.5)
    assert (test.short_edge, test.crop_size) == (256, 224)
    assert cfg.dataloader.test.dataset.source == "imagenet_1k_val"
    multiplier = instantiate(cfg.lr_multiplier)
    for epoch, factor in factors.items():
        assert multiplier(epoch * steps / cfg.train.max_iter) == pytest.approx(factor, abs=1e-9)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert type(model).__name__ == kind
    assert model.num_classes == cfg.dataloader.test.dataset.num_classes == 1000
    trained = {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    if name.startswith("semi"):
        assert trained == {"backbone", "head"}
        cfg.optimizer.params.model = model
        rates = {n: g["lr"] for g in instantiate(cfg.optimizer.params) for n in g["param_names"]}
        assert {n for n, rate in rates.items() if rate == pytest.approx(0.1)} == {"head.weight", "head.bias"}
    else:
        assert trained == ({"heads"} if kind == "MultiStageClassifier" else {"head"})


def test_what_sets_the_protocols_apart():
    assert load("linear_R_50_imagenet_simsiam").optimizer._target_ == "timm.optim.Lars"
    cfg = load("multi_stage_R_50_imagenet")
    assert cfg.optimizer.nesterov
    jitter = instantiate(cfg.dataloader.train.mapper).photometric
    assert (jitter.strength, jitter.hue, jitter.jitter_prob) == ((0.4, 0.4, 0.4), 0.0, 1.0)
    assert (jitter.grayscale_prob, jitter.blur_prob) == (0.0, 0.0)
    assert cfg.dataloader.train.mapper.lighting_std == 0.1
    evaluator = load(KNN).dataloader.evaluator
    assert (list(evaluator.k), evaluator.temperature) == ([10, 20, 100, 200], 0.07)
    for percent in ("1pct", "10pct"):
        cfg = load(f"semi_supervised_R_50_imagenet_{percent}")
        assert cfg.dataloader.train.dataset.source == f"imagenet_1k_train_{percent}"
        assert cfg.model.backbone.norm == "SyncBN"


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    """A small `textures` in the folder of all data sets."""
    sys.path.insert(0, str(ROOT / "tests/datasets"))
    from builders import load_script

    root = tmp_path_factory.mktemp("datasets")
    load_script("prepare_textures").build(root / "textures", train=12, val=6, size=72)
    return root


@pytest.fixture(autouse=True)
def data_root(textures, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(textures))


def run(cfg, **kwargs):
    return defaults.run(cfg, Namespace(**({"resume": False, "eval_only": False} | kwargs)))


class StopAfter(HookBase):
    """Sends this process SIGTERM before a given iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def tensors(state, prefix=""):
    """{dotted name: tensor} of a nested state; names and numbers beside them are compared elsewhere."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    found = {}
    for key, value in items:
        found |= tensors(value, f"{prefix}.{key}")
    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_twin_trains_evaluates_and_resumes_exactly(name, tmp_path):
    overrides = [f"train.max_iter={STEPS}", "dataloader.train.mapper.crop_size=32"]
    overrides += ["dataloader.test.mapper.short_edge=36", "dataloader.test.mapper.crop_size=32"]
    results = run(twin(name, tmp_path / "whole", *overrides))
    stopped = twin(name, tmp_path / "stopped", *overrides)
    stopped.train.hooks.append({"_target_": StopAfter, "iteration": STEPS // 2})
    with pytest.raises(TrainingInterrupted):
        run(stopped)
    assert run(twin(name, tmp_path / "stopped", *overrides), resume=True) == results
    whole, resumed = (
        torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("whole", "stopped")
    )
    for part in ("model", "optimizer"):
        torch.testing.assert_close(tensors(whole[part]), tensors(resumed[part]), rtol=0, atol=0)
    assert whole["data"] == resumed["data"]
    assert whole["iteration"] == resumed["iteration"] == STEPS
    assert all(0 <= value <= 100 for value in results["classification"].values())
    recorded = json.loads((tmp_path / "whole/evaluation.json").read_text())["results"]
    assert recorded == results
    if name == "multi_stage_R_50_imagenet":
        assert set(results["classification"]) == {
            f"top{k}_{stage}" for k in (1, 5) for stage in ("conv1", "res2", "res3", "res4", "res5")
        }


def test_accuracy_rises_above_chance_and_the_trunk_stays(tmp_path):
    """The path of a user: a pretraining checkpoint, a linear classifier on it, neighbours by it."""
    from densessl.engine.defaults import build_model

    pretraining = str(ROOT / "configs/quick_schedules/moco_v2_R_50_coco_800ep_quick.py")
    overrides = [f"train.output_dir={tmp_path}/moco", "train.max_iter=10", "optimizer.lr=1e-3"]
    overrides += [f"dataloader.train.dataset.source={os.environ['DETECTRON2_DATASETS']}/textures/train"]
    run(load_config(pretraining, [*overrides, "dataloader.train.mapper.crop_size=32"]))
    weights = f"train.init_checkpoint={tmp_path}/moco/model_final.pth"

    longer = ["train.max_iter=40", "train.checkpointer.period=100"]
    cfg = twin("linear_R_50_imagenet_moco", tmp_path / "linear", weights, *longer)
    results = run(cfg)
    assert results["classification"]["top1"] > 60  # four classes: chance is 25
    before = torch.load(tmp_path / "moco/model_final.pth", weights_only=True)["model"]
    after = torch.load(tmp_path / "linear/model_final.pth", weights_only=True)["model"]
    trunk = {name for name in after if name.startswith("backbone.")}
    assert len(trunk) == 122 - 2  # ResNet-18 without fc
    assert all(torch.equal(before[name], after[name]) for name in trunk)

    results = run(twin(KNN, tmp_path / "knn", weights), eval_only=True)
    assert results["knn"]["top1_k5"] > 60
    again = twin("linear_R_50_imagenet_moco", tmp_path / "again", f"train.init_checkpoint={tmp_path}/linear")
    assert run(again, eval_only=True)["classification"]["top1"] > 60
    headless = twin("linear_R_50_imagenet_moco", tmp_path / "headless", weights)
    with pytest.raises(CheckpointError, match="head.weight"):  # a linear layer that nobody trained
        run(headless, eval_only=True)
    assert build_model(cfg, torch.device("cpu")).training


def test_mistakes_stop_before_training(tmp_path):
    name = "linear_R_50_imagenet_moco"
    with pytest.raises(DataError, match="nowhere"):
        run(twin(name, tmp_path / "a", "dataloader.test.dataset.source=nowhere/val"))
    assert not list((tmp_path / "a").glob("*.pth"))
    with pytest.raises(DataError, match="has 4 class folders .* model 1000 classes: set model.num_classes=4"):
        run(twin(name, tmp_path / "b", "model.num_classes=1000"))
    with pytest.raises(ConfigError, match="no dataloader.train: it only evaluates; add --eval-only"):
        run(twin(KNN, tmp_path / "c"))
