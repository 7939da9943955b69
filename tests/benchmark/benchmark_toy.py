"""A small plan, and a trainer that leaves a run's files without training."""

import json
from pathlib import Path

from detectron2.config import LazyConfig

from densessl.benchmark.cells import PRETRAIN, Cell, Trainer, cell_name
from densessl.config import load_config

CONFIG = """
import torch
from detectron2.config import LazyCall as L

model = L(torch.nn.Linear)(in_features=3, out_features=2)
dataloader = dict(train=L(torch.utils.data.DataLoader)(dataset=[1, 2], batch_size=2, num_workers=0))
optimizer = L(torch.optim.SGD)(lr=0.1)
lr_multiplier = dict(factors=[1.0, 0.1])
train = dict(max_iter=10, output_dir="out", init_checkpoint="", seed=0, log_period=20)
"""
MACHINE = dict(cpu="a CPU", memory="1 GiB", device="cpu", python="3", densessl="0", torch="2", detectron2="0")


class Bench:
    """Seeds of "scratch" and of "dense" (pretrained first), each fine-tuned once by the fake trainer."""

    def __init__(self, folder: Path):
        self.folder, self.output = folder / "fake", folder / "output"
        self.folder.mkdir()
        self.config = folder / "toy.py"
        self.config.write_text(CONFIG)
        self.trainer = Trainer(str(Path(__file__).with_name("fake_trainer.py")))
        self.behave({})

    def cells(self, seeds: int = 2, overrides: tuple[str, ...] = ()) -> list[Cell]:
        """The plan; the fake trainer leaves the config that belongs to it."""
        found = []
        for seed in range(seeds):
            for row in ("scratch", "dense"):
                needs = ""
                if row == "dense":
                    found.append(Cell(row, PRETRAIN, seed, str(self.config), overrides))
                    needs = cell_name(row, seed, PRETRAIN)
                own = (str(self.config), overrides)
                found.append(Cell(row, "boxes", seed, *own, needs=needs, metrics=("bbox/AP",)))
        for cell in found:
            saved = self.folder / f"{cell.name.replace('/', '-')}.yaml"
            LazyConfig.save(load_config(cell.config, cell.all_overrides(self.output)), str(saved))
        return found

    def behave(self, behaviour: dict) -> None:
        """{cell name: "fail", "wait", "no evaluation" or results}."""
        (self.folder / "behaviour.json").write_text(json.dumps(behaviour))

    def calls(self) -> list[str]:
        """Every start since the last call of this method: "mode cell weights"."""
        path = self.folder / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.strip() for line in lines]
