"""The commands of the pages do what the pages say: run on drawn pictures, with recipes as their twins.

Which command falls under which rule is in documented.py. Each runs in a process forked from this one, so
that nothing is imported twice, in a folder where the paths of the pages exist.
"""

import json
import math
import multiprocessing
import os
import runpy
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from documented import DRY, OF_PAGES, ROOT, RUN, TRAINER, Command, rule
from PIL import Image

from densessl.config import load_config
from densessl.visualization import pictures

torch.set_num_threads(1)

# What later overrides make small; a page's own value of the same key gives way.
BOTH = ("train.device=cpu", "train.max_iter=1", "train.log_period=1", "dataloader.train.num_workers=0")
PRETRAINING = ("dataloader.train.mapper.crop_size=32",)
DETECTION = (
    "dataloader.train.total_batch_size=2",
    "dataloader.test.num_workers=0",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "model.roi_heads.box_predictor.test_topk_per_image=3",
)
PIXELS = {  # by the class of the first augmentation
    "ResizeShortestEdge": ("0.short_edge_length=[56,64]",),
    "ResizeScale": ("0.target_height=64", "0.target_width=64", "1.crop_size=[64,64]"),
}
CLASSIFICATION = ("dataloader.train.total_batch_size=8", "dataloader.train.mapper.crop_size=32")
MASK_RCNN = "configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_2fc.py"
# runs whose checkpoints the pages name: recipe -> what it starts from
EARLIER = {
    "projects/DenseCL/configs/densecl_R_50_coco_800ep.py": None,
    "projects/DenseCL/configs/densecl_R_50_imagenet_200ep.py": None,
    MASK_RCNN: None,
    "configs/quickstart/densecl_R_18_coral.py": None,
    "configs/quickstart/mask_rcnn_R_18_coral_densecl.py": "output/quickstart/densecl_R_18_coral",
    "configs/quickstart/mask_rcnn_R_18_coral_random.py": None,
}


def picture(path: Path, seed: int) -> None:
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize((96, 72), Image.BICUBIC).save(path)


def write_data(folder: Path) -> None:
    """What the pages call /data: folders, a list, tar shards. The LMDB is packed by a command."""
    photographs = folder / "my_photographs"
    for target, count in ((photographs, 16), (folder / "more_photographs", 4)):
        for index in range(count):
            picture(target / f"part{index % 2}/{index}.jpg", index)
    names = [path.relative_to(photographs).as_posix() for path in photographs.rglob("*.jpg")]
    (folder / "my_photographs.txt").write_text("".join(f"{name}\n" for name in names))
    (folder / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"shards/train-{shard}.tar", "w") as archive:
            for name in names[shard::2]:
                archive.add(photographs / name, name.replace("/", "_"))


def write_datasets(folder: Path) -> None:
    """The builders, a small `coral` in the real layout and a few pictures in the place of COCO."""
    sys.path.insert(0, str(ROOT / "tests/datasets"))
    from builders import fake_sdist, load_script

    from densessl.data.datasets.sample_writer import build_atomically, sha256_of

    for script in (ROOT / "datasets").glob("*.py"):
        (folder / script.name).symlink_to(script)
    sdist = fake_sdist(folder / "sdist.tar.gz")
    coral = load_script("prepare_coral")
    build_atomically(folder / "coral", lambda target: coral.build(target, 80, sdist, sha256_of(sdist)))
    for index in range(3):
        picture(folder / f"coco/train2017/{index}.jpg", index)


class Place:
    """A folder like the repository's root, with data, and with the runs that the pages go on from."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._runs: dict[Command, tuple[str, Path]] = {}
        for name in ("tools", "configs", "projects"):
            (root / name).symlink_to(ROOT / name)
        (root / "datasets").mkdir()
        write_data(root / "data")
        write_datasets(root / "datasets")
        for script in ("prepare_photos", "prepare_textures"):
            self.run((f"datasets/{script}.py",))
        self.run(
            (
                "tools/folder2lmdb.py",
                self.path("/data/my_photographs"),
                self.path("/data/my_photographs.lmdb"),
            )
        )
        for config, start in EARLIER.items():
            begin = () if start is None else (f"train.init_checkpoint={start}/model_final.pth",)
            _, output = self.train((TRAINER, "--config-file", config, *begin))
            link = root / load_config(str(ROOT / config)).train.output_dir
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(output)

    def path(self, argument: str) -> str:
        """An argument with the pages' /data here."""
        return argument.replace("/data/", f"{self.root}/data/")

    def run(self, command: Command) -> str:
        """Runs a command in a fork of this process; returns what it printed."""
        log = self.root / "log.txt"
        process = multiprocessing.get_context("fork").Process(target=_program, args=(self.root, command, log))
        process.start()
        process.join(200)
        process.kill()
        process.join()
        assert process.exitcode == 0, f"{' '.join(command)}\n{log.read_text()}"
        return log.read_text()

    def train(self, command: Command) -> tuple[str, Path]:
        """Runs a trainer command made small, or takes the run of one that is the same when small.

        Returns:
            what it printed and its output folder.
        """
        arguments = small(command, self.path)
        if arguments not in self._runs:
            output = self.root / "runs" / str(len(self._runs))
            if "--resume" in arguments:
                config = command[command.index("--config-file") + 1]
                shutil.copytree(self.root / load_config(str(ROOT / config)).train.output_dir, output)
            self._runs[arguments] = self.run((*arguments, f"train.output_dir={output}")), output
        return self._runs[arguments]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # fewer and smaller pictures in reports
        patch.setattr(pictures, "VIEW_SIZE", 96)
        patch.setattr(pictures, "PAIRS_PER_IMAGE", 1)
        patch.setattr(pictures, "LONG_SIDE", 128)
        yield Place(tmp_path_factory.mktemp("documented"))


def _program(place: Path, command: Command, log: Path) -> None:
    with open(log, "w", buffering=1) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.stdout = sys.stderr = output
        os.chdir(place)
        os.environ["DETECTRON2_DATASETS"] = str(place / "datasets")
        sys.argv = list(command)
        sys.path.insert(0, str(place / Path(command[0]).parent))
        try:
            runpy.run_path(command[0], run_name="__main__")
        except Exception:  # into the log, before it is closed
            sys.excepthook(*sys.exc_info())
            sys.exit(1)


def small(command: Command, path: Callable[[str], str]) -> Command:
    """A trainer command with its recipe's twin, one step and few pixels; `path` moves /data."""
    arguments = [path(argument) for argument in command[1:]]
    if "--num-gpus" in arguments:
        at = arguments.index("--num-gpus")
        del arguments[at : at + 2]
    at = arguments.index("--config-file") + 1
    twin = f"configs/quick_schedules/{Path(arguments[at]).stem}_quick.py"
    if (ROOT / twin).exists():
        arguments[at] = twin
    more = ["train.max_iter=2"] if "--resume" in arguments else []
    return (TRAINER, *arguments, *sizes_of(ROOT / arguments[at], arguments), *more)


def sizes_of(config: Path, arguments: list[str]) -> list[str]:
    """Overrides that make a config small. A batch keeps two images for each part that a page asks for."""
    cfg = load_config(str(config))
    if "evaluator" not in cfg.dataloader:
        parts = [int(v.split("=")[1]) for v in arguments if "accumulate=" in v or "groups=" in v]
        batch = max(4, 2 * math.prod(parts))
        return [*BOTH, *PRETRAINING, f"dataloader.train.total_batch_size={batch}", "model.queue_size=64"]
    if "train" not in cfg.dataloader:  # nearest neighbours: nothing is trained
        return ["train.device=cpu"]
    if "names" not in cfg.dataloader.train.dataset:
        return [*BOTH, *CLASSIFICATION]
    first = cfg.dataloader.train.mapper.augmentations[0]._target_
    name = first.rsplit(".", 1)[-1] if isinstance(first, str) else first.__name__
    return [*BOTH, *DETECTION, *(f"dataloader.train.mapper.augmentations.{size}" for size in PIXELS[name])]


def chosen(name: str, *scripts: str) -> list[Command]:
    """The pages' commands of these scripts to which a rule applies."""
    return [command for command in OF_PAGES if rule(command) == name and command[0] in scripts]


def results(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())["results"]


@pytest.mark.parametrize("command", chosen("runs", TRAINER), ids=" ".join)
def test_trainer_command_runs(command, place):
    printed, output = place.train(command)
    if "--eval-only" in command:
        assert results(output)
        return
    steps = 2 if "--resume" in command else 1
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == steps
    if "--resume" in command:
        assert "after 1 steps" in printed
    if any(argument.startswith("train.init_checkpoint") for argument in command):
        assert "Starting from the weights of" in printed


@pytest.mark.parametrize("command", chosen("runs", *RUN), ids=" ".join)
def test_tool_runs(command, place, tmp_path):
    arguments = [place.path(argument) for argument in command[1:]]
    written = None
    if command[0] == "tools/folder2lmdb.py":
        written = arguments[1] = str(tmp_path / Path(arguments[1]).name)
    elif "--output" in arguments:
        written = place.root / arguments[arguments.index("--output") + 1]
    more = ["--num-images", "1"] if command[0] == "tools/make_report.py" else []
    assert place.run((command[0], *arguments, *more)).strip()
    assert written is None or Path(written).stat().st_size > 0


@pytest.mark.parametrize("command", chosen("dry run", *DRY), ids=" ".join)
def test_benchmark_is_planned(command, place, tmp_path):
    printed = place.run((*command, "--dry-run", "--output", str(tmp_path / "out")))
    assert "lazyconfig_train_net.py --config-file" in printed
    assert not (tmp_path / "out").exists()
