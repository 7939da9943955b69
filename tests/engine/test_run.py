"""Whole runs of the toy config in this process: resume law, signals, evaluation, refusals."""

import contextlib
import functools
import gc
import importlib.machinery
import json
import logging
import multiprocessing
import os
import signal
import sys
import types
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.engine.train_loop import HookBase
from engine_toy import assert_same

from densessl.checkpoint.files import verify
from densessl.config import load_config
from densessl.engine import defaults
from densessl.engine.signals import TrainingInterrupted
from densessl.errors import CheckpointError, ConfigError, DataError

CONFIG = str(Path(__file__).with_name("toy_config.py"))


class SendSignal(HookBase):
    """Sends this process a signal in the middle of an iteration, as a scheduler would."""

    def __init__(self, signum: int, iteration: int):
        self.signum, self.iteration = signum, iteration

    def before_step(self):
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), self.signum)


def run(output_dir: Path, *overrides: str, hooks=(), resume: bool = False, eval_only: bool = False) -> dict:
    cfg = load_config(CONFIG, [f"train.output_dir={output_dir}", *overrides])
    cfg.train.hooks = list(hooks)
    return defaults.run(cfg, Namespace(resume=resume, eval_only=eval_only))


def checkpoint(output_dir: Path, name: str = "model_final.pth") -> dict:
    return torch.load(output_dir / name, weights_only=True)


def rows(output_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "metrics.json").read_text().splitlines()]


def logged_losses(output_dir: Path) -> list[tuple[int, float]]:
    """At log steps; an interrupted run has one more row, of the steps since the last."""
    pairs = [(row["iteration"], row.get("total_loss")) for row in rows(output_dir)]
    return [pair for pair in pairs if pair[0] % 4 == 3]


def assert_same_run(first: Path, second: Path) -> None:
    """Equal weights, optimiser, random states, EMA and logged losses, bit for bit."""
    a, b = checkpoint(first), checkpoint(second)
    assert a["iteration"] == b["iteration"]
    assert_same(a["model"], b["model"])
    assert a["optimizer"]["param_groups"] == b["optimizer"]["param_groups"]
    for index, state in a["optimizer"]["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(value, b["optimizer"]["state"][index][name], rtol=0, atol=0)
    assert torch.equal(a["rng"][0]["torch"], b["rng"][0]["torch"])
    assert a["rng"][0]["python"] == b["rng"][0]["python"]
    assert a["trainer"]["storage"]["total_loss"] == b["trainer"]["storage"]["total_loss"]
    assert_same(a["trainer"]["hooks"]["EMAHook"]["average"], b["trainer"]["hooks"]["EMAHook"]["average"])
    assert logged_losses(first) == logged_losses(second)


EMA = ["train.ema.enabled=true", "train.ema.module=backbone", "train.ema.momentum=0.5"]


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR2, 140)]
)
def test_signal_saves_and_the_resumed_run_ends_equal(tmp_path, signum, status):
    run(tmp_path / "whole", *EMA)
    with pytest.raises(TrainingInterrupted) as stopped:
        run(tmp_path / "parts", *EMA, hooks=[L(SendSignal)(signum=int(signum), iteration=4)])
    assert stopped.value.exit_code == status
    assert "after iteration 4" in str(stopped.value)
    assert checkpoint(tmp_path / "parts", "model_0000005.pth")["iteration"] == 5
    assert not (tmp_path / "parts" / "model_final.pth").exists()
    run(tmp_path / "parts", *EMA, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_accumulation_resume_exactly(tmp_path, workers):
    options = [*EMA, "train.accumulate=2"]
    run(tmp_path / "whole", *options)
    parts = [*options, f"dataloader.train.num_workers={workers}"]
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "parts", *parts, hooks=[L(SendSignal)(signum=int(signal.SIGTERM), iteration=6)])
    run(tmp_path / "parts", *options, "dataloader.train.num_workers=0", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("stop_at", [1, 6])
def test_float16_with_skipped_steps_resumes_exactly(tmp_path, monkeypatch, stop_at):
    """Stopped right after a skipped step, and between steps of which each third one overflows."""
    scaler = functools.partial(
        torch.amp.GradScaler, init_scale=2.0**40, backoff_factor=2.0**-20, growth_interval=2
    )
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(scaler, growth_factor=2.0**20))
    options = [*EMA, "train.amp={enabled: true, dtype: float16}"]
    run(tmp_path / "whole", *options)
    hooks = [L(SendSignal)(signum=int(signal.SIGTERM), iteration=stop_at)]
    with pytest.raises(TrainingInterrupted):
        run(tmp_path / "parts", *options, hooks=hooks)
    run(tmp_path / "parts", *options, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    ours, whole = (checkpoint(tmp_path / name)["trainer"] for name in ("parts", "whole"))
    assert ours["scaler"] == whole["scaler"]
    assert ours["skipped_steps"] == whole["skipped_steps"] >= 3


@pytest.mark.parametrize("hooks", [[], [L(SendSignal)(signum=int(signal.SIGTERM), iteration=1)]])
def test_workers_end_with_the_run(tmp_path, hooks):
    """At once: the garbage collector, which may find torch's queues first, would wait 5 s for each."""
    gc.disable()
    try:
        with contextlib.suppress(TrainingInterrupted):
            run(tmp_path, "dataloader.train.num_workers=2", "train.max_iter=3", hooks=hooks)
        assert not multiprocessing.active_children()
    finally:
        gc.enable()


def test_evaluation_in_between_changes_nothing(tmp_path):
    run(tmp_path / "never", *EMA)
    run(tmp_path / "often", *EMA, "train.eval_period=3")
    assert_same_run(tmp_path / "never", tmp_path / "often")
    assert [row["iteration"] for row in rows(tmp_path / "often") if "toy/images" in row] == [2, 5, 8, 12]


def test_signal_during_the_last_step_is_a_finished_run(tmp_path):
    assert (
        run(tmp_path, hooks=[L(SendSignal)(signum=int(signal.SIGTERM), iteration=11)])["toy"]["images"] == 4
    )
    assert checkpoint(tmp_path)["iteration"] == 12
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_resume_of_a_finished_run_does_nothing(tmp_path):
    run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.pth")}
    assert run(tmp_path, resume=True) == {}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.pth")} == before


@pytest.mark.parametrize("lost", ["model_final.pth*", "model_0000012.pth.json model_final.pth*", "model_0*"])
def test_resume_gives_the_last_checkpoint_the_name_that_a_kill_prevented(tmp_path, lost):
    run(tmp_path)
    for pattern in lost.split():
        for path in tmp_path.glob(pattern):
            path.unlink()
    assert run(tmp_path, resume=True) == {}
    assert checkpoint(tmp_path)["iteration"] == 12
    verify(str(tmp_path / "model_final.pth"))
    if lost != "model_0*":
        assert (tmp_path / "model_final.pth").samefile(tmp_path / "model_0000012.pth")
    assert not list(tmp_path.glob("*tmp"))


def test_longer_resume_continues(tmp_path, caplog):
    run(tmp_path)
    with caplog.at_level("WARNING"):
        run(tmp_path, "train.max_iter=16", resume=True)
    assert checkpoint(tmp_path)["iteration"] == 16
    assert "train.max_iter" in caplog.text


def test_changed_lr_is_said_and_the_old_one_continues(tmp_path, caplog):
    with pytest.raises(TrainingInterrupted):
        run(tmp_path, hooks=[L(SendSignal)(signum=int(signal.SIGTERM), iteration=4)])
    with caplog.at_level("WARNING"):
        run(tmp_path, "optimizer.lr=0.5", resume=True)
    assert "base lr 0.03 in the checkpoint, 0.5 in the config" in caplog.text
    run(tmp_path / "whole")
    assert_same(checkpoint(tmp_path)["model"], checkpoint(tmp_path / "whole")["model"])


def test_new_run_starts_from_weights_only(tmp_path):
    run(tmp_path / "first")
    run(tmp_path / "second", f"train.init_checkpoint={tmp_path}/first/model_final.pth", "optimizer.lr=0.0")
    first, second = (checkpoint(tmp_path / name) for name in ("first", "second"))
    torch.testing.assert_close(second["model"]["head.weight"], first["model"]["head.weight"], rtol=0, atol=0)
    assert second["iteration"] == 12
    assert rows(tmp_path / "second")[0]["iteration"] == 3


def test_evaluation_only(tmp_path):
    run(tmp_path)
    config = (tmp_path / "config.yaml").read_text()
    results = run(
        tmp_path, f"train.init_checkpoint={tmp_path}/model_final.pth", "train.seed=5", eval_only=True
    )
    assert results == {"toy": {"images": 4.0}}
    assert json.loads((tmp_path / "evaluation.json").read_text())["results"] == results
    assert (tmp_path / "config.yaml").read_text() == config  # the run's own


def test_schedules_of_the_config_are_applied(tmp_path):
    linear = (
        "{_target_: fvcore.common.param_scheduler.LinearParamScheduler, start_value: 0.0, end_value: 1.2}"
    )
    schedule = f"{{_target_: densessl.engine.Schedule, target: model.momentum, scheduler: {linear}}}"
    run(tmp_path, f"train.schedules=[{schedule}]")
    logged = [row["schedule/model.momentum"] for row in rows(tmp_path) if "total_loss" in row]
    assert logged == pytest.approx([0.3, 0.7, 1.1])


def test_deterministic_switch(tmp_path):
    try:
        run(tmp_path / "a", "train.deterministic=true")
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        run(tmp_path / "b", "train.deterministic=true")
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    assert_same(checkpoint(tmp_path / "a")["model"], checkpoint(tmp_path / "b")["model"])


def test_other_loaders_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "build_model", lambda *args: pytest.fail("the model was built"))
    cfg = load_config(CONFIG, [f"train.output_dir={tmp_path}"])
    cfg.dataloader.train = L(list)()
    with pytest.raises(ConfigError, match="build_train_loader"):
        defaults.run(cfg, Namespace(resume=False, eval_only=False))


@pytest.mark.parametrize("switch", ["channels_last", "compile"])
def test_switches_keep_the_numbers(tmp_path, monkeypatch, switch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    options = ["model.dropout=0.0", "train.max_iter=4"]
    run(tmp_path / "off", *options)
    run(tmp_path / "on", *options, f"train.{switch}=true")
    assert_same(checkpoint(tmp_path / "off")["model"], checkpoint(tmp_path / "on")["model"], atol=1e-5)


def test_saved_config_runs_again(tmp_path):
    run(tmp_path / "first", "train.lr_scaling.enabled=true", "train.lr_scaling.base_batch=4")
    assert not list((tmp_path / "first").glob("*.pkl"))
    cfg = load_config(str(tmp_path / "first" / "config.yaml"), [f"train.output_dir={tmp_path}/second"])
    defaults.run(cfg, Namespace(resume=False, eval_only=False))
    assert_same(checkpoint(tmp_path / "first")["model"], checkpoint(tmp_path / "second")["model"])


@pytest.mark.parametrize(("enabled", "lr"), [(True, 0.06), (False, 0.03)])
def test_lr_rule_is_printed_and_applied(tmp_path, caplog, enabled, lr):
    caplog.set_level(logging.INFO)
    run(tmp_path, f"train.lr_scaling.enabled={enabled}", "train.lr_scaling.base_batch=4", "train.max_iter=4")
    assert checkpoint(tmp_path)["optimizer"]["param_groups"][0]["initial_lr"] == pytest.approx(lr)
    expected = "0.03 * 8 / 4 = 0.06" if enabled else "optimizer.lr = 0.03 at batch 8, as written"
    assert expected in caplog.text


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("train.max_iter=0", ConfigError, "train.max_iter=0"),
        ("train.log_period=0", ConfigError, "train.log_period=0"),
        ("train.checkpointer.period=0", ConfigError, "period=0"),
        ("train.checkpointer.max_to_keep=1", ConfigError, "max_to_keep"),
        ("train.clip_grad.norm=-1", ConfigError, "clip_grad.norm"),
        ("optimizer.lr=-0.1", ConfigError, "optimizer.lr"),
        ("train.accumulate=3", ConfigError, "total_batch_size=8"),
        ("dataloader.train.total_batch_size=0", ConfigError, "total_batch_size=0"),
        ("train.device=tpu", ConfigError, "'tpu' is unknown"),
        ("train.device=cuda", ConfigError, "no GPU can be used"),
        ("train.amp={enabled: true, dtype: float8}", ConfigError, "float8"),
        ("train.init_checkpoint=/nowhere/model.pth", CheckpointError, "/nowhere/model.pth"),
        ("dataloader.train.dataset.count=0", DataError, "0 images"),
        ("train.ema={enabled: true, module: bakbone}", ConfigError, "bakbone"),
    ],
)
def test_refused_before_training(tmp_path, monkeypatch, override, error, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    steps = []
    monkeypatch.setattr("densessl.engine.train_loop.Trainer.run_step", lambda self: steps.append(1))
    if "ema" not in override and "max_to_keep" not in override:  # those need the model or the trainer
        monkeypatch.setattr(defaults, "build_model", lambda *args: pytest.fail("the model was built"))
    with pytest.raises(error, match=message):
        run(tmp_path, override)
    assert not steps


def test_unwritable_output_is_refused_before_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "build_model", lambda *args: pytest.fail("the model was built"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        run(tmp_path / "file" / "output")


def test_unknown_dataset_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "build_model", lambda *args: pytest.fail("the model was built"))
    cfg = load_config(CONFIG, [f"train.output_dir={tmp_path}"])
    cfg.dataloader.train.dataset = {"names": "coco_2017_trian"}
    with pytest.raises(DataError, match="coco_2017_train"):
        defaults.run(cfg, Namespace(resume=False, eval_only=False))
    cfg.dataloader.train.dataset = {"names": ["coco_2017_train"]}
    with pytest.raises(DataError, match="DETECTRON2_DATASETS"):
        defaults.run(cfg, Namespace(resume=False, eval_only=False))


def test_another_run_in_the_directory_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(ConfigError, match="--resume"):
        run(tmp_path)


def test_full_disk_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    save = torch.save

    def full(content, file, *args, **kwargs):
        if content.get("iteration") == 12:
            raise OSError(28, "No space left on device")
        save(content, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        run(tmp_path)
    monkeypatch.undo()
    assert checkpoint(tmp_path, "model_0000006.pth")["iteration"] == 6
    run(tmp_path, resume=True)
    assert checkpoint(tmp_path)["iteration"] == 12


def test_wandb_missing_is_said_before_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "build_model", lambda *args: pytest.fail("the model was built"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        run(tmp_path, "train.wandb.enabled=true")


def test_wandb_gets_what_the_other_writers_get(tmp_path, monkeypatch):
    class FakeRun:
        logged, finished = [], False

        def log(self, values, step):
            self.logged.append((step, values.get("total_loss")))

        def finish(self):
            self.finished = True

    fake = types.ModuleType("wandb")
    fake.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    fake.run = FakeRun()
    fake.started = []
    fake.init = lambda **kwargs: (fake.started.append(kwargs["id"]), fake.run)[1]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run(tmp_path, "train.wandb.enabled=true", "train.eval_period=100")
    written = [(row["iteration"], row["total_loss"]) for row in rows(tmp_path) if "total_loss" in row]
    assert fake.run.logged[:3] == written
    assert fake.run.finished
    run(tmp_path, "train.wandb.enabled=true", "train.max_iter=14", "train.eval_period=100", resume=True)
    assert fake.started[0] == fake.started[1] != ""  # one run there as well
