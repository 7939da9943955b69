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
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from detectron2.engine.train_loop import HookBase
from narrow import make_narrow
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
STEPS, STOP = 6, 3
KILLS, KILL_STEPS, KILL_PERIOD = 20, 60, 3


class StopAfter(HookBase):
    """Sends this process SIGTERM during a given iteration."""

    def __init__(self, iteration: int):
        self.iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def load(method: str, output: Path, pictures: Path, *extra: str):
    """Config of a method's quick recipe on the narrow trunk."""
    options = [
        f"train.output_dir={output}",
        f"dataloader.train.dataset.source={pictures}",
        f"train.max_iter={STEPS}",
        "train.checkpointer.period=100",  # only where it stops
        "train.log_period=2",
    ]
    cfg = load_config(str(ROOT / "configs/quick_schedules" / f"{RECIPES[method]}.py"), [*options, *extra])
    make_narrow(cfg.model)  # the law is about state, not its size; a queue of 32 wraps round within the run
    return cfg


def train(method: str, output: Path, pictures: Path, *extra: str, stop_after: int | None = None) -> None:
    """Goes on from what is in `output` to the end, or is told to stop during iteration `stop_after`."""
    cfg = load(method, output, pictures, *extra)
    if stop_after is None:
        defaults.run(cfg, Namespace(resume=True, eval_only=False))
        return
    cfg.train.hooks.append({"_target_": StopAfter, "iteration": stop_after})
    with pytest.raises(TrainingInterrupted):
        defaults.run(cfg, Namespace(resume=True, eval_only=False))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 20 smooth pictures: 20 is no multiple of the batch, so epochs drop and reshuffle."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for index in range(20):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize((80, 60), Image.Resampling.BICUBIC).save(folder / f"{index:02d}.jpg")
    return folder


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


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
@pytest.mark.parametrize("method", RECIPES)
def test_stopped_and_resumed_with_any_workers(tmp_path, pictures, method):
    results = {}
    for workers in (0, 1, 4):
        options = [f"dataloader.train.num_workers={workers}", "train.accumulate=2"]
        whole, stopped = tmp_path / f"whole_{workers}", tmp_path / f"stopped_{workers}"
        train(method, whole, pictures, *options)
        train(method, stopped, pictures, *options, stop_after=STOP)
        train(method, stopped, pictures, *options)
        assert_equal(state(whole), state(stopped))
        results[workers] = state(whole)["model"]
    assert_equal(results[0], results[1])
    assert_equal(results[0], results[4])


def train_all(output: Path, pictures: Path, part: str) -> None:
    """What each of two processes does."""
    one_worker = "dataloader.train.num_workers=1"
    for method in RECIPES:
        whole, stopped = output / f"{method}_whole", output / f"{method}_stopped"
        if part == "stop":
            train(method, whole, pictures, one_worker)
            # the ranks agree during the next step
            train(method, stopped, pictures, one_worker, stop_after=STOP - 1)
        else:
            train(method, stopped, pictures, one_worker)


def test_two_processes_stopped_and_resumed(tmp_path, pictures):
    for part in ("stop", "resume"):
        ranks.run(train_all, tmp_path, pictures, part)
    for method in RECIPES:
        first = state(tmp_path / f"{method}_whole")
        assert_equal(first, state(tmp_path / f"{method}_stopped"), method)
        assert len(first["rng"]) == 2


@pytest.mark.parametrize("method", RECIPES)
def test_killed_at_random_times(tmp_path, pictures, method):
    """SIGKILL in the middle of whatever: a step, a save, a start. The run goes on from what is on disk."""
    extra = [f"train.max_iter={KILL_STEPS}", f"train.checkpointer.period={KILL_PERIOD}"]
    started = time.monotonic()
    train(method, tmp_path / "whole", pictures, *extra)
    period = (time.monotonic() - started) * KILL_PERIOD / KILL_STEPS  # of this machine, as busy as it is
    killed, generator = tmp_path / "killed", random.Random()
    context = multiprocessing.get_context("fork")  # a fresh interpreter would spend its life importing torch
    starts = [0]
    for _ in range(KILLS):
        options = [*extra, f"dataloader.train.num_workers={generator.choice((0, 1))}"]
        process = context.Process(target=train_silently, args=(method, killed, pictures, *options))
        process.start()
        if generator.random() < 0.5:  # else during the start
            wait_for_progress(killed, starts[-1], process)
        time.sleep(generator.uniform(0.0, 2 * period))
        process.kill()
        process.join()
        starts.append(last_step(killed))
    assert starts == sorted(starts)
    assert any(0 < step < KILL_STEPS for step in starts), starts  # else no kill met the training
    train(method, killed, pictures, *extra)
    assert_equal(state(tmp_path / "whole")["model"], state(killed)["model"])
    assert_equal(state(tmp_path / "whole")["optimizer"], state(killed)["optimizer"])


def train_silently(*args) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        train(*args)


def wait_for_progress(output: Path, step: int, process: multiprocessing.Process) -> None:
    """Until there is a checkpoint after `step` or the process has ended by itself."""
    while last_step(output) <= step and process.is_alive():
        time.sleep(0.01)


def last_step(output: Path) -> int:
    """Steps of the newest complete checkpoint, 0 without one."""
    sidecars = sorted(output.glob("model_[0-9]*.pth.json"))
    return max((json.loads(path.read_text())["iteration"] for path in sidecars), default=0)
