"""Small runs of the CPU-sized recipes of PiCIE and MDC. Not a test itself."""

import hashlib
import os
import signal
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from cluster_toy import OneConvolution
from detectron2.config import LazyCall as L
from detectron2.engine.train_loop import HookBase
from PIL import Image

from densessl.config import load_config
from densessl.engine import defaults
from densessl.engine.signals import TrainingInterrupted

ROOT = Path(__file__).parents[2]
STEPS, PER_EPOCH = 5, 2


class StopInStep(HookBase):
    """Sends this process SIGTERM during a given step, counted from 0."""

    def __init__(self, step: int):
        self.step = step

    def before_step(self) -> None:
        if self.trainer.iter == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def write_pictures(folder: Path, count: int = 9) -> None:
    """9 smooth pictures: 9 is no multiple of the batch of 4, and an epoch has two steps."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        small.resize((48, 36), Image.Resampling.BICUBIC).save(folder / f"{index:02d}.jpg")


def recipe(name: str) -> str:
    """The twin of a recipe; "picie" and "mdc" are those of COCO."""
    name = name if "_" in name else f"{name}_R_18_coco_10ep"
    return str(ROOT / f"configs/quick_schedules/{name}_quick.py")


def train(
    name: str,
    output: Path,
    pictures: Path,
    *extra: str,
    stop_in_step: int | None = None,
    whole_network: bool = False,
) -> None:
    """Trains, or goes on with, a run of five steps, two per epoch; or stops on the way.

    In place of the network there is one convolution with batch norm, unless `whole_network`.
    """
    options = [
        f"train.output_dir={output}",
        f"dataloader.train.dataset.source={pictures}",
        f"train.max_iter={STEPS}",
        "train.checkpointer.period=100",
        *extra,
    ]
    cfg = load_config(recipe(name), options)
    if not whole_network:
        cfg.model.backbone = L(OneConvolution)(channels=8, norm=True)
        if cfg.model.classifier is not None:
            cfg.model.classifier.in_channels = 8
    arguments = Namespace(resume=True, eval_only=False)
    if stop_in_step is None:
        defaults.run(cfg, arguments)
        return
    cfg.train.hooks.append({"_target_": StopInStep, "step": stop_in_step})
    with pytest.raises(TrainingInterrupted):
        defaults.run(cfg, arguments)


def final_state(output: Path) -> dict:
    """What must be equal, tensors as digests: weights, centroids, optimiser, random states, hook, labels."""
    content = torch.load(output / "model_final.pth", weights_only=True)
    # label files of older epochs stay as long as a checkpoint needs them
    labels = hashlib.sha256(max(output.glob("cluster_labels_*.npy")).read_bytes()).hexdigest()
    kept = {key: content[key] for key in ("model", "optimizer", "iteration", "rng", "data")}
    return _digests(kept) | {"hook": content["trainer"]["hooks"]["ClusterHook"], "labels": labels}


def _digests(value):
    if isinstance(value, dict):
        return {key: _digests(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_digests(item) for item in value]
    if isinstance(value, torch.Tensor):
        return str(value.dtype), hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    return value
