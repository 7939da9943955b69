"""A tiny meta-architecture, data and config for the engine's tests. Not a test itself."""

import numpy as np
import torch
from torch import nn

from densessl.utils.events import log_metric


def records(count: int = 64) -> list[dict]:
    return [{"file_name": f"image_{i:03d}.png", "image_id": i} for i in range(count)]


class ToyMapper:
    """Makes a random picture for a record; `needs_rng` as the project's two-view mapper."""

    needs_rng = True

    def __init__(self, size: int = 8):
        self.size = size

    def __call__(self, record: dict, rng: np.random.Generator) -> dict:
        image = rng.integers(0, 256, (3, self.size, self.size), dtype=np.uint8)
        return {**record, "image": torch.from_numpy(image)}


class KeepRecord:
    """A mapper that adds nothing."""

    def __call__(self, record: dict) -> dict:
        return dict(record)


def collate(samples: list[dict]) -> dict:
    batch = {key: [sample[key] for sample in samples] for key in ("file_name", "image_id", "sample")}
    batch["image"] = torch.stack([sample["image"] for sample in samples])
    return batch


class ToyNet(nn.Module):
    """Conv (and batch norm), linear, squared output; one state vector moved after each optimiser step.

    `bad_image_id`: an image that makes the loss NaN ("loss") or its gradient infinite ("grad").
    """

    def __init__(self, norm: bool = True, dropout: float = 0.0, bad_image_id: int = -1, bad: str = "loss"):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=not norm),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(4, 2)
        self.register_buffer("moved", torch.zeros(2))
        self.momentum = 0.9
        self.bad_image_id, self.bad = bad_image_id, bad
        self.pending: list[torch.Tensor] = []
        self.discarded = 0

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        images = batch["image"].to(self.moved.device).float() / 255 - 0.5  # (N, 3, H, W)
        output = self.head(self.backbone(images).mean(dim=(2, 3)))  # (N, 2)
        self.pending.append(output.detach().float().mean(0))
        loss = (output.float() - 1).square().mean()
        log_metric("toy/mean", output.detach().mean())
        if self.bad_image_id in batch["image_id"]:
            # the square root's gradient at 0 is infinite while its value is finite
            loss = loss * float("nan") if self.bad == "loss" else loss + (self.head.bias * 0).sum().sqrt()
        return {"loss_toy": loss, "loss_half": loss * 0.5}

    def after_optimizer_step(self, skip: torch.Tensor | None = None) -> None:
        new = self.momentum * self.moved + (1 - self.momentum) * torch.stack(self.pending).mean(0)
        self.moved.copy_(new if skip is None else torch.where(skip > 0, self.moved, new))
        self.pending.clear()

    def discard_pending(self) -> None:
        self.pending.clear()
        self.discarded += 1


class ToyEvaluator:
    """Counts images; detectron2's evaluator protocol."""

    def reset(self) -> None:
        self.count = 0

    def process(self, inputs: list, outputs: list) -> None:
        self.count += len(inputs)

    def evaluate(self) -> dict:
        return {"toy": {"images": np.float64(self.count)}}


class ToyTestNet(ToyNet):
    """Answers in evaluation mode, and uses random numbers there."""

    def forward(self, batch):
        if self.training:
            return super().forward(batch)
        torch.rand(3)
        return [{} for _ in batch]
