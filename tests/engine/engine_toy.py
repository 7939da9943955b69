"""A tiny meta-architecture, data and config for the engine's tests. Not a test itself."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from densessl.data.build import build_train_loader
from densessl.engine.train_loop import Trainer
from densessl.errors import DataError
from densessl.utils.events import log_metric

torch.set_num_threads(1)


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

    def __init__(self, norm: str = "BN", dropout: float = 0.0, bad_image_id: int = -1, bad: str = "loss"):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=norm == "none"),
            {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm, "none": nn.Identity}[norm](4),
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
            # the square root's gradient at 0 is not finite while its value is
            loss = loss * float("nan") if self.bad == "loss" else loss + (self.head.bias * 0).sum().sqrt()
        return {"loss_toy": loss, "loss_half": loss * 0.5}

    def after_optimizer_step(self, skip: torch.Tensor | None = None) -> None:
        mean = torch.stack(self.pending).mean(0)
        if comm.get_world_size() > 1:  # the state is equal on all ranks
            torch.distributed.all_reduce(mean)
            mean /= comm.get_world_size()
        new = self.momentum * self.moved + (1 - self.momentum) * mean
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


def make_trainer(output_dir, *, model: dict | None = None, optimizer=None, batch: int = 8, **kwargs):
    """A Trainer over the toy data, one process; `optimizer` maps parameters to a torch optimiser."""
    torch.manual_seed(0)
    net = ToyNet(**(model or {}))
    loader = build_train_loader(
        records(),
        ToyMapper(),
        batch,
        seed=0,
        accumulate=kwargs.get("accumulate", 1),
        num_workers=0,
        collate_fn=collate,
    )
    make = optimizer or (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True))
    kwargs.setdefault("log_period", 4)
    return Trainer(
        net, loader, make(net.parameters()), device=torch.device("cpu"), output_dir=str(output_dir), **kwargs
    )


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the state dict."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], atol: float = 0.0) -> None:
    """Equal names and values; bit for bit unless `atol` is given."""
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=atol, msg=name)


def preload(trainer: Trainer, steps: int) -> None:
    """Loads the micro-batches of `steps` steps now, so that what follows is the trainer's work alone."""
    batches = iter(trainer.data_loader)
    trainer._data_loader_iter_obj = iter([next(batches) for _ in range(steps * trainer.accumulate)])


class HostReads(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: scalar reads and shapes that depend on values."""

    OPS = (
        torch.ops.aten._local_scalar_dense.default,  # item(), float(t), int(t), bool(t), print
        torch.ops.aten.nonzero.default,  # boolean-mask indexing too
        torch.ops.aten.masked_select.default,
        torch.ops.aten._unique2.default,
    )

    METHODS = ("tolist", "numpy", "cpu")  # on the CPU these call no operator

    def __init__(self):
        super().__init__()
        self.count = 0
        self._methods = {name: getattr(torch.Tensor, name) for name in self.METHODS}

    def __enter__(self):
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, self._counted(method))
        return super().__enter__()

    def __exit__(self, *args):
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, method)
        return super().__exit__(*args)

    def _counted(self, method):
        def counted(*args, **kwargs):
            self.count += 1
            return method(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masked = func is torch.ops.aten.index.Tensor and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        self.count += func in self.OPS or masked
        return func(*args, **(kwargs or {}))


class BrokenMapper(ToyMapper):
    """Cannot read any image."""

    def __call__(self, record: dict, rng: np.random.Generator) -> dict:
        raise OSError(f"{record['file_name']} is not an image")


class HoldStep(HookBase):
    """Holds the main process in one iteration until a file appears: what a test does then meets a step.

    Makes `<file>.reached` first.
    """

    def __init__(self, iteration: int, file: str):
        self.iteration, self.file = iteration, Path(file)

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration and comm.is_main_process():
            Path(f"{self.file}.reached").touch()
            wait_for(self.file.exists)


def wait_for(
    condition: Callable[[], bool], process: subprocess.Popen | None = None, seconds: float = 120
) -> None:
    """Returns when `condition()` holds; fails when the process that should bring it about has ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def logged(output_dir: Path, text: str) -> bool:
    """Whether the log of a run, which may not have begun, holds `text`."""
    log = output_dir / "log.txt"
    return log.exists() and text in log.read_text()


class FailOnRank(HookBase):
    """Raises on one rank only, in the middle of training."""

    def __init__(self, rank: int, iteration: int, kind: str):
        self.rank, self.iteration, self.kind = rank, iteration, kind

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration and comm.get_rank() == self.rank:
            raise {"DataError": DataError, "RuntimeError": RuntimeError}[self.kind]("broken on purpose")


class CompareRanks(HookBase):
    """Requires equal weights and state on all ranks after every step; batch-norm statistics may differ."""

    def after_step(self) -> None:
        module = self.trainer.module
        names = [name for name in module.state_dict() if not name.startswith("backbone.1.")]
        values = torch.cat([module.state_dict()[name].flatten() for name in names])
        for other in comm.all_gather(values):
            torch.testing.assert_close(other, values, rtol=0, atol=0)


class SignalOneRank(HookBase):
    """Rank 1 alone gets a signal during one iteration."""

    def __init__(self, iteration: int, signum: int = signal.SIGTERM):
        self.iteration, self.signum = iteration, signum

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration and comm.get_rank() == 1:
            os.kill(os.getpid(), self.signum)
