"""Precise batch-norm statistics: their values, and that nothing else notices."""

import functools
import json
import logging
import os
import signal
from argparse import Namespace
from pathlib import Path

import pytest
import ranks
import torch
from detectron2.config import LazyCall as L
from detectron2.engine.train_loop import HookBase
from engine_toy import SignalOneRank, ToyTestNet, assert_same, make_trainer

from densessl.config import get_config, load_config
from densessl.engine import defaults
from densessl.engine.hooks import EMAHook
from densessl.engine.precise_bn import PreciseBNHook
from densessl.engine.signals import TrainingInterrupted
from densessl.errors import ConfigError

CONFIG = str(Path(__file__).with_name("toy_config.py"))
STATISTICS = ("backbone.1.running_mean", "backbone.1.running_var")
RECIPES = [
    *(
        f"COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_{length}_{head}"
        for length in ("1x", "2x")
        for head in ("2fc", "4conv1fc")
    ),
    "PascalVOC-Detection/faster_rcnn_R_50_C4_24k",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x",
    "COCO-Detection/retinanet_R_50_FPN_1x",
    "COCO-Detection/fcos_R_50_FPN_1x",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_2x",
    "Cityscapes/mask_rcnn_R_50_FPN_24k",
]


class Terminate(HookBase):
    """Sends this process SIGTERM during one iteration."""

    def __init__(self, iteration: int):
        self.iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


class EvaluatedStatistics(ToyTestNet):
    """Notes the running mean that each evaluation sees."""

    seen: list[torch.Tensor] = []

    def forward(self, batch):
        if not self.training and len(batch):
            self.seen.append(self.backbone[1].running_mean.clone())
        return super().forward(batch)


def expected_statistics(net, loader, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (4,) of the batch norm's input over micro-batches [first, first + count)."""
    loader.set_step(0)
    stream = iter(loader)
    batches = [next(stream) for _ in range(first + count)][first:]
    images = torch.cat([batch["image"] for batch in batches]).float() / 255 - 0.5
    with torch.no_grad():
        inputs = net.backbone[0](images)  # (N, 4, H, W)
    return inputs.mean((0, 2, 3)), inputs.var((0, 2, 3), unbiased=False)


def assert_statistics(net, expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    norm = net.backbone[1]
    torch.testing.assert_close(norm.running_mean, expected[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.running_var, expected[1], rtol=0, atol=1e-6)


def run(output_dir: Path, *overrides: str, hooks: list, resume: bool = False, model=None) -> dict:
    cfg = load_config(CONFIG, [f"train.output_dir={output_dir}", *overrides])
    cfg.train.hooks = hooks
    if model is not None:
        cfg.model._target_ = model
    return defaults.run(cfg, Namespace(resume=resume, eval_only=False))


def precise(num_iter: int = 5) -> dict:
    return L(PreciseBNHook)(period="${train.eval_period}", num_iter=num_iter)


def checkpoint(output_dir: Path, name: str = "model_final.pth") -> dict:
    return torch.load(output_dir / name, weights_only=True)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_statistics_are_the_plain_mean_over_the_batches(tmp_path, accumulate):
    trainer = make_trainer(tmp_path, accumulate=accumulate)
    trainer.register_hooks([PreciseBNHook(period=0, num_iter=5)])
    trainer.train(0, 3)
    expected = expected_statistics(trainer.module, trainer.data_loader, 3 * accumulate, 5 * accumulate)
    assert_statistics(trainer.module, expected)
    assert trainer.module.backbone[1].momentum == 0.1
    assert not trainer.module.backbone[1]._forward_pre_hooks
    assert trainer.module.training


def test_period_and_end(tmp_path, monkeypatch):
    updates = []
    monkeypatch.setattr(PreciseBNHook, "update", lambda hook: updates.append(hook.trainer.iter + 1))
    for period in (3, 0):
        trainer = make_trainer(tmp_path)
        trainer.register_hooks([PreciseBNHook(period, num_iter=1)])
        trainer.train(0, 7)
    assert updates == [3, 6, 7, 7]


def test_training_and_metrics_do_not_notice(tmp_path):
    """Weights, model state, random states and logged numbers, with dropout and in-between updates."""

    def train(*hooks: HookBase):
        trainer = make_trainer(tmp_path, model={"dropout": 0.3})
        trainer.register_hooks(list(hooks))
        trainer.train(0, 9)
        state = trainer.module.state_dict()
        del state["backbone.1.num_batches_tracked"]
        statistics = [state.pop(name) for name in STATISTICS]
        metrics = {name: buffer.values() for name, buffer in trainer.storage.histories().items()}
        return state, statistics, metrics, torch.get_rng_state()

    without, averages, metrics, random_state = train()
    hooked, statistics, hooked_metrics, hooked_random_state = train(PreciseBNHook(period=2, num_iter=3))
    assert torch.equal(hooked_random_state, random_state)
    assert_same(hooked, without)
    assert hooked_metrics == metrics
    assert "toy/mean" in metrics
    for precise_value, average in zip(statistics, averages):
        assert not torch.allclose(precise_value, average, rtol=0, atol=1e-5)


def test_buffers_stay_the_same_tensors_and_averages_copy_them(tmp_path):
    trainer = make_trainer(tmp_path)
    norm = trainer.module.backbone[1]
    before = norm.running_mean, norm.running_var
    ema = EMAHook(trainer.module, "backbone", 0.5)
    trainer.register_hooks([PreciseBNHook(period=2, num_iter=3), ema])
    trainer.train(0, 4)
    assert norm.running_mean is before[0]
    assert norm.running_var is before[1]
    torch.testing.assert_close(ema.average["1.running_mean"], norm.running_mean, rtol=0, atol=0)


def test_compiled_model_gets_the_same_statistics_without_being_compiled_again(tmp_path, monkeypatch):
    compiled = []

    def backend(graph, example_inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    options = ["model.dropout=0.0", "train.max_iter=6", "train.eval_period=2"]
    run(tmp_path / "off", *options, hooks=[precise()])
    assert not compiled
    torch.compiler.reset()  # what other tests have compiled
    run(tmp_path / "plain", *options, "train.compile=true", hooks=[])
    once = len(compiled)
    assert once > 0
    torch.compiler.reset()
    run(tmp_path / "on", *options, "train.compile=true", hooks=[precise()])
    assert len(compiled) == 2 * once
    assert_same(checkpoint(tmp_path / "off")["model"], checkpoint(tmp_path / "on")["model"], atol=1e-5)


def test_evaluation_and_checkpoint_have_them(tmp_path):
    EvaluatedStatistics.seen.clear()
    run(tmp_path, "train.eval_period=6", hooks=[precise()], model=EvaluatedStatistics)
    seen = EvaluatedStatistics.seen
    assert len(seen) == 8  # four images, after 6 and after 12 steps
    trainer = make_trainer(tmp_path / "other")  # the same pictures in the same order
    for name, steps, mean in (("model_0000006.pth", 6, seen[0]), ("model_final.pth", 12, seen[-1])):
        saved = checkpoint(tmp_path, name)
        trainer.module.load_state_dict(saved["model"])
        assert_statistics(trainer.module, expected_statistics(trainer.module, trainer.data_loader, steps, 5))
        assert torch.equal(mean, saved["model"][STATISTICS[0]])


@pytest.mark.parametrize("stop", [4, 5])  # after the step, between and together with an update
@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_run_ends_equal(tmp_path, stop, workers):
    options = ["train.eval_period=3", f"dataloader.train.num_workers={workers}"]
    run(tmp_path / "whole", *options, hooks=[precise()])
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "parts", *options, hooks=[precise(), L(Terminate)(iteration=stop)])
    run(tmp_path / "parts", *options, hooks=[precise()], resume=True)
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert_same(whole["model"], parts["model"])
    for index, state in whole["optimizer"]["state"].items():
        assert_same(state, parts["optimizer"]["state"][index])
    assert torch.equal(whole["rng"][0]["torch"], parts["rng"][0]["torch"])
    assert whole["rng"][0]["python"] == parts["rng"][0]["python"]
    losses = [
        [json.loads(line).get("total_loss") for line in (tmp_path / name / "metrics.json").open()][-1]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]


def test_model_without_batch_norm_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run(tmp_path, "model.norm=none", "train.max_iter=2", hooks=[precise()])
    assert "the model has no batch norm in training mode" in caplog.text
    assert checkpoint(tmp_path)["iteration"] == 2


@pytest.mark.parametrize(("period", "num_iter"), [(-1, 200), (0, 0)])
def test_numbers_are_checked(period, num_iter):
    with pytest.raises(ConfigError, match=f"period={period} and num_iter={num_iter}"):
        PreciseBNHook(period, num_iter)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_take_200_batches_and_their_twins_2(recipe):
    full = get_config(f"{recipe}.py")
    (hook,) = full.train.hooks
    assert (hook._target_, hook.num_iter, hook.period) == (PreciseBNHook, 200, full.train.eval_period)
    assert hook.period == 5000
    twin = get_config(f"quick_schedules/{Path(recipe).name}_quick.py")
    assert twin.train.hooks[0].num_iter == 2
    assert twin.train.hooks[0].period == 0


@pytest.mark.slow
def test_two_processes_equal_one_and_resume(tmp_path):
    """SyncBN: each rank passes its half of the batches, both get the statistics of the whole."""
    options = ["model.norm=SyncBN", "model.dropout=0.0"]
    hook, stop = L(PreciseBNHook)(period=3, num_iter=5), L(SignalOneRank)(iteration=6)
    ranks.run(run_in_rank, tmp_path / "whole", options, [hook])
    run(tmp_path / "one", *options, hooks=[hook])
    models = [checkpoint(tmp_path / name)["model"] for name in ("whole", "one")]
    for model in models:
        del model["backbone.1.num_batches_tracked"]  # naiveSyncBN does not count
    # fvcore takes naiveSyncBN's biased variance for the unbiased one of 4 * 64 values
    variances = [model.pop(STATISTICS[1]) for model in models]
    torch.testing.assert_close(*variances, rtol=1 / 200, atol=0)
    assert_same(*models, atol=1e-5)

    with pytest.raises(AssertionError, match="TrainingInterrupted: Stopped by SIGTERM after iteration 7"):
        ranks.run(run_in_rank, tmp_path / "parts", options, [hook, stop])
    ranks.run(run_in_rank, tmp_path / "parts", options, [hook], True)
    assert_same(checkpoint(tmp_path / "whole")["model"], checkpoint(tmp_path / "parts")["model"])


def run_in_rank(output_dir: Path, options: list[str], hooks: list, resume: bool = False) -> None:
    run(output_dir, *options, hooks=hooks, resume=resume)
