"""The resume law on the real methods: stopped, killed or neither, a run ends in the same bits.

Each method trains its CPU-sized recipe on small pictures. Everything a checkpoint holds is compared: weights,
averaged weights, queues, optimiser, sampler state and random states.
"""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine.train_loop import HookBase
from PIL import Image

from densessl.config import load_config
from densessl.engine import defaults
from densessl.engine.signals import TrainingInterrupted

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RECIPES = {
    "densecl": "densecl_R_50_coco_800ep_quick",
    "moco": "moco_v2_R_50_coco_800ep_quick",
    "simsiam": "simsiam_R_50_coco_800ep_quick",
}
STEPS, STOP, KILLS = 6, 3, 20
KILL_STEPS = 30


class StopAfter(HookBase):
    """Sends this process SIGTERM during a given iteration."""

    def __init__(self, iteration: int):
        self.iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 20 smooth pictures: 20 is no multiple of the batch, so epochs drop and reshuffle."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(20):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize((80, 60), Image.Resampling.BICUBIC).save(folder / f"{index:02d}.jpg")
    return folder


def overrides(output: Path, pictures: Path, *extra: str) -> list[str]:
    return [
        f"train.output_dir={output}",
        f"dataloader.train.dataset.source={pictures}",
        "dataloader.train.mapper.crop_size=32",
        f"train.max_iter={STEPS}",
        "train.checkpointer.period=100",  # only where it stops; each takes half a second
        "train.log_period=2",
        *extra,
    ]


def recipe(method: str) -> str:
    return str(ROOT / "configs/quick_schedules" / f"{RECIPES[method]}.py")


def train(method: str, options: list[str], stop_after: int | None = None) -> None:
    cfg = load_config(recipe(method), options)
    if stop_after is None:
        defaults.run(cfg, Namespace(resume=True, eval_only=False))
        return
    cfg.train.hooks.append({"_target_": StopAfter, "iteration": stop_after})
    with pytest.raises(TrainingInterrupted):
        defaults.run(cfg, Namespace(resume=True, eval_only=False))


def state(output: Path) -> dict:
    """What must be equal; the trainer's own entry holds times, so of it only the losses."""
    content = torch.load(output / "model_final.pth", weights_only=True)
    losses = {name: log for name, log in content["trainer"]["storage"].items() if "loss" in name}
    return {key: content[key] for key in ("model", "optimizer", "iteration", "rng", "data")} | {
        "losses": losses
    }


def assert_equal(first, second, path="state") -> None:
    """Equal structure and bits."""
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


@pytest.mark.parametrize("method", RECIPES)
def test_stopped_and_resumed_with_any_workers(tmp_path, pictures, method):
    results = {}
    for workers in (0, 1, 4):
        options = [f"dataloader.train.num_workers={workers}", "train.accumulate=2"]
        whole, stopped = tmp_path / f"whole_{workers}", tmp_path / f"stopped_{workers}"
        train(method, overrides(whole, pictures, *options))
        train(method, overrides(stopped, pictures, *options), stop_after=STOP)
        train(method, overrides(stopped, pictures, *options))
        assert_equal(state(whole), state(stopped))
        results[workers] = state(whole)["model"]
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[4])


@pytest.mark.parametrize("method", RECIPES)
def test_two_processes_stopped_and_resumed(tmp_path, pictures, method):
    def run(output: Path, *extra: str) -> int:
        command = [
            sys.executable,
            str(ROOT / "tools/lazyconfig_train_net.py"),
            "--config-file",
            recipe(method),
        ]
        options = overrides(output, pictures, "dataloader.train.num_workers=1", *extra)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(
            [*command, "--num-gpus", "2", "--resume", *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode in (0, 143), done.stderr[-3000:]
        return done.returncode

    hook = f"train.hooks=[{{_target_: {Path(__file__).stem}.StopAfter, iteration: {STOP - 1}}}]"
    assert run(tmp_path / "whole") == 0
    assert run(tmp_path / "stopped", hook) == 143
    assert run(tmp_path / "stopped") == 0
    first = state(tmp_path / "whole")
    assert_equal(first, state(tmp_path / "stopped"))
    assert len(first["rng"]) == 2


@pytest.mark.parametrize("method", RECIPES)
def test_killed_at_random_times(tmp_path, pictures, method):
    """SIGKILL in the middle of whatever: a step, a save, a start. The run goes on from what is on disk."""
    extra = [f"train.max_iter={KILL_STEPS}", "train.checkpointer.period=3", "train.log_period=10"]
    started = time.monotonic()
    train(method, overrides(tmp_path / "whole", pictures, *extra))
    duration = time.monotonic() - started  # of this machine, as busy as it is
    killed, generator = tmp_path / "killed", random.Random()
    context = multiprocessing.get_context("fork")  # a fresh interpreter would spend its life importing torch
    starts = []
    for _ in range(KILLS):
        options = overrides(
            killed, pictures, *extra, f"dataloader.train.num_workers={generator.choice((0, 1))}"
        )
        process = context.Process(target=train_silently, args=(method, options))
        process.start()
        time.sleep(generator.uniform(0.0, 0.7 * duration))
        process.kill()
        process.join()
        starts.append(last_step(killed))
    assert starts == sorted(starts)
    assert any(0 < step < KILL_STEPS for step in starts), starts  # else no kill met the training
    train(method, overrides(killed, pictures, *extra))
    assert_equal(state(tmp_path / "whole")["model"], state(killed)["model"])
    assert_equal(state(tmp_path / "whole")["optimizer"], state(killed)["optimizer"])


def train_silently(method: str, options: list[str]) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        train(method, options)


def last_step(output: Path) -> int:
    """Steps of the newest complete checkpoint, 0 without one."""
    sidecars = sorted(output.glob("model_[0-9]*.pth.json"))
    return max((json.loads(path.read_text())["iteration"] for path in sidecars), default=0)
