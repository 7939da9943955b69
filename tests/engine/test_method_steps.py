"""The real methods in the trainer: no host wait between log steps, constant memory, nothing kept."""

import contextlib
import gc
import resource
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from engine_toy import HostReads, make_trainer, preload
from narrow import make_narrow
from PIL import Image

from densessl.config import load_config
from densessl.engine import defaults
from densessl.engine.defaults import build_optimizer
from densessl.engine.train_loop import Trainer

QUICK = Path(__file__).parents[2] / "configs" / "quick_schedules"
CONFIGS = ("densecl_R_50_coco_800ep", "moco_v2_R_50_coco_800ep", "simsiam_R_50_coco_800ep")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(16):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{index:02d}.jpg")
    return folder


def method_trainer(name: str, images: Path, output_dir: Path, **kwargs) -> Trainer:
    cfg = load_config(
        str(QUICK / f"{name}_quick.py"),
        [
            f"dataloader.train.dataset.source={images}",
            "dataloader.train.total_batch_size=4",
            "dataloader.train.mapper.crop_size=32",
        ],
    )
    make_narrow(cfg.model)
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    loader = instantiate(cfg.dataloader.train)
    optimizer = build_optimizer(cfg, model, loader.total_batch_size)
    assert all(group["fused"] for group in optimizer.param_groups)
    return Trainer(model, loader, optimizer, device=torch.device("cpu"), output_dir=str(output_dir), **kwargs)


def tensor_bytes() -> int:
    """Bytes of all tensors with data that Python can reach."""
    gc.collect()
    storages = {}
    for item in gc.get_objects():
        if issubclass(type(item), torch.Tensor):
            with contextlib.suppress(RuntimeError):  # a fake tensor that a compiler left has no data
                storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_no_host_read_between_log_steps(name, images, tmp_path):
    trainer = method_trainer(name, images, tmp_path, deferred_check=True, log_period=4)
    preload(trainer, 8)
    trainer.train(0, 4)  # lazy initialisation and the first log step
    counts = []
    after_step = trainer.after_step
    with HostReads() as reads:
        trainer.after_step = lambda: (counts.append(reads.count), after_step())
        trainer.train(4, 8)
    assert counts[:3] == [0, 0, 0]
    assert counts[3] > 0  # the log step


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_is_kept_from_step_to_step(name, images, tmp_path):
    trainer = method_trainer(name, images, tmp_path, deferred_check=True, log_period=2)
    sizes = []
    after_step = trainer.after_step

    def measure():
        after_step()
        if (trainer.iter + 1) % 2 == 0:
            sizes.append(tensor_bytes())

    trainer.after_step = measure
    trainer.train(0, 10)
    # a batch is 4 x 2 x 3 x 32 x 32 bytes; ViewGeometry and records may differ by a few numbers
    assert max(sizes[1:]) - min(sizes[1:]) < 4 * 2 * 3 * 32 * 32


def test_memory_is_constant_over_500_steps(tmp_path):
    trainer = make_trainer(tmp_path, deferred_check=True, log_period=20)
    trainer.train(0, 100)
    before, objects = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, tensor_bytes()
    trainer.train(100, 600)
    assert tensor_bytes() - objects < 4096
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096  # kilobytes


def run_method(name: str, images: Path, output_dir: Path, *overrides: str) -> None:
    cfg = load_config(
        str(QUICK / f"{name}_quick.py"),
        [
            f"dataloader.train.dataset.source={images}",
            "dataloader.train.total_batch_size=4",
            "dataloader.train.mapper.crop_size=32",
            f"train.output_dir={output_dir}",
            "train.max_iter=6",
            *overrides,
        ],
    )
    make_narrow(cfg.model)
    defaults.run(cfg, Namespace(resume=False, eval_only=False))


@pytest.mark.parametrize(
    "switch",
    [
        "train.activation_checkpointing=true",
        "train.channels_last=true",
        "train.amp={enabled: true, dtype: bfloat16}",
    ],
)
def test_switches_of_a_method(switch, images, tmp_path):
    name = CONFIGS[0]
    run_method(name, images, tmp_path / "off")
    run_method(name, images, tmp_path / "on", switch)
    off, on = (
        torch.load(tmp_path / part / "model_final.pth", weights_only=True)["trainer"]["storage"]["loss_dense"]
        for part in ("off", "on")
    )
    # the first losses; later ones drift apart as every change of rounding makes them
    exact = switch == "train.activation_checkpointing=true"
    assert on["values"][0][0] == pytest.approx(off["values"][0][0], rel=0 if exact else 0.02)
    assert (on["values"] == off["values"]) == exact


def test_a_queue_beyond_the_images_found_is_warned_about(images, tmp_path):
    """Whatever number of images the recipe was written for."""
    run_method(CONFIGS[1], images, tmp_path, "model.dataset_size=118287", "train.max_iter=1")
    log = (tmp_path / "log.txt").read_text()
    assert log.count("model.queue_size=64 is larger than the data set (16 images)") == 1


def test_warm_up_of_lambda_is_a_schedule(images, tmp_path):
    """The dense term is off for two steps, as the authors' DenseCLWarmupHook has it, and half after them."""
    target = "fvcore.common.param_scheduler.MultiStepParamScheduler"
    steps = f"{{_target_: {target}, values: [0.0, 0.5], milestones: [2, 6]}}"
    schedule = f"{{_target_: densessl.engine.Schedule, target: model.loss_weight, scheduler: {steps}}}"
    run_method(CONFIGS[0], images, tmp_path, f"train.schedules=[{schedule}]")
    storage = torch.load(tmp_path / "model_final.pth", weights_only=True)["trainer"]["storage"]
    weighted, plain = (
        [value for value, _ in storage[name]["values"]]
        for name in ("loss_dense", "densecl/loss_dense_unweighted")
    )
    assert weighted == pytest.approx([0.0, 0.0, *(0.5 * value for value in plain[2:])])
    assert all(plain)
