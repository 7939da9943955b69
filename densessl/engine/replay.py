"""Runs a captured non-finite step again, on one process, to look at what happened in it."""

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import nn

from densessl.checkpoint.compare import weight_differences
from densessl.checkpoint.reading import read_weights
from densessl.checkpoint.state import restore_rng_state
from densessl.engine.checks import amp_dtype
from densessl.engine.defaults import build_model
from densessl.engine.events import TensorEventStorage
from densessl.engine.launch import resolve_device
from densessl.errors import CheckpointError, ConfigError


@dataclass
class Replay:
    """What the second run of the step gave.

    Attributes:
        iteration, rank: of the captured step.
        recorded: its losses, per micro-batch; losses: those of the second run.
        file_names: the images, per micro-batch.
        non_finite_gradients: names of the parameters whose gradient is not finite in the second run.
    """

    iteration: int
    rank: int
    recorded: list[dict[str, float]]
    losses: list[dict[str, float]]
    file_names: list[list[str]]
    non_finite_gradients: list[str]

    @property
    def reproduced(self) -> bool:
        """Whether a loss or a gradient is not finite again."""
        values = [value for micro in self.losses for value in micro.values()]
        return bool(self.non_finite_gradients) or not torch.tensor(values).isfinite().all()


def replay(cfg: DictConfig, path: str, rank: int | None = None) -> Replay:
    """Loads the captured weights, random states and images and computes the step's losses and gradients.

    The images are read and augmented again, which gives the same pixels: a sample is a function of (seed,
    epoch, index). What other ranks contributed (keys, batch-norm statistics) is not there on one process.

    Args:
        cfg: the config of the run that wrote the capture.
        path: `non_finite_<iteration>.pth`.
        rank: whose part to run; None: the first rank with a non-finite loss, else 0.

    Raises:
        CheckpointError: the file cannot be read or belongs to another model.
        ConfigError: there is no such rank, or the loader gave no sample numbers.
    """
    capture = _read(path)
    part = _choose(capture["ranks"], rank)
    if not all(part["samples"]):
        raise ConfigError(f"{path}: the loader of that run gave no sample numbers, so it cannot be replayed.")
    device = torch.device(resolve_device(cfg.train.device))
    model = build_model(cfg, device).train()
    different = weight_differences(capture["model"], model.state_dict())
    if different:
        raise CheckpointError(f"{path} belongs to another model than this config: {'; '.join(different)}.")
    model.load_state_dict(capture["model"])
    _apply_schedules(cfg, model, capture["performed_steps"] / cfg.train.max_iter)
    loader = instantiate(cfg.dataloader.train)
    collate = instantiate(cfg.dataloader.train.get("collate_fn"))
    batches = []
    for micro in part["samples"]:
        samples = [loader.dataset[tuple(pair)] for pair in micro]
        batches.append(samples if collate is None else collate(samples))
    restore_rng_state(part["rng"])
    losses = _losses(model, batches, device, amp_dtype(cfg.train.amp, device), capture["iteration"])
    names = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not parameter.grad.isfinite().all()
    ]
    return Replay(capture["iteration"], part["rank"], part["losses"], losses, part["file_names"], names)


def _read(path: str) -> dict[str, Any]:
    capture = read_weights(path)
    if not {"ranks", "model", "iteration", "performed_steps"} <= capture.keys():
        raise CheckpointError(
            f"{path} is not the capture of a non-finite step; give the file non_finite_<iteration>.pth that "
            "the error message of the run named."
        )
    return capture


def _choose(ranks: list[dict[str, Any]], rank: int | None) -> dict[str, Any]:
    if rank is None:
        bad = [
            part
            for part in ranks
            if not all(torch.tensor(list(micro.values())).isfinite().all() for micro in part["losses"])
        ]
        return (bad or ranks)[0]
    if not 0 <= rank < len(ranks):
        raise ConfigError(f"--rank {rank}: the capture holds ranks 0 to {len(ranks) - 1}.")
    return ranks[rank]


def _apply_schedules(cfg: DictConfig, model: nn.Module, progress: float) -> None:
    for schedule in instantiate(cfg.train.schedules):
        root, *path, name = schedule.target.split(".")
        if root == "model":
            setattr(model.get_submodule(".".join(path)), name, float(schedule.scheduler(progress)))


def _losses(
    model: nn.Module, batches: list, device: torch.device, precision: torch.dtype | None, iteration: int
) -> list[dict[str, float]]:
    losses = []
    with TensorEventStorage(iteration):
        for batch in batches:
            with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
                terms = model(batch)
            (sum(terms.values()) / len(batches)).backward()
            losses.append({name: float(value.detach()) for name, value in terms.items()})
    return losses
