"""What can be known to be wrong with a run before its model is built."""

import difflib
import importlib.util
import math
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from densessl.data.datasets import register_datasets
from densessl.data.datasets.annotation_check import POLICIES, check_annotations
from densessl.data.datasets.guard import guard_annotations
from densessl.errors import CheckpointError, ConfigError, DataError

AMP_TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# Metadata of detectron2's data sets that are files or folders
DATASET_PATHS = ("json_file", "image_root", "dirname", "sem_seg_root", "panoptic_json", "image_dir", "gt_dir")


def check_values(cfg: DictConfig, args: Namespace) -> None:
    """Checks the numbers and files of the `train` node.

    Raises:
        ConfigError: a value is out of range, or options exclude each other.
        CheckpointError: `train.init_checkpoint` does not exist.
    """
    train = cfg.train
    for key, least in (
        ("max_iter", 1),
        ("accumulate", 1),
        ("log_period", 1),
        ("eval_period", 0),
        ("seed", 0),
    ):
        _require(train[key] >= least, f"train.{key}={train[key]}", f"it must be at least {least}")
    _require(train.seed < 2**31, f"train.seed={train.seed}", "it must be below 2147483648")
    period = train.checkpointer.period
    _require(period >= 1, f"train.checkpointer.period={period}", "it must be at least 1")
    for key in ("norm", "value"):
        limit = train.clip_grad[key]
        _require(
            limit is None or (isinstance(limit, (int, float)) and limit > 0),
            f"train.clip_grad.{key}={limit}",
            "it must be a positive number, or null for off",
        )
    lr = OmegaConf.select(cfg, "optimizer.lr")
    _require(lr is None or (math.isfinite(lr) and lr >= 0), f"optimizer.lr={lr}", "it must be a number >= 0")
    base = train.lr_scaling.base_batch
    _require(
        base is not None and base > 0 or not train.lr_scaling.enabled,
        f"train.lr_scaling.base_batch={base}",
        "it must be the positive batch that optimizer.lr was chosen for",
    )
    _require(
        not (train.compile and train.activation_checkpointing),
        "train.compile and train.activation_checkpointing are both true",
        "use one of them: the compiler chooses what to recompute by itself",
    )
    _require(
        not train.wandb.enabled or _is_installed("wandb"),
        "train.wandb.enabled is true but wandb is not installed",
        "`pip install 'densessl[wandb]'`, or set it to false",
    )
    policy = train.get("bad_annotations", "raise")
    _require(policy in POLICIES, f"train.bad_annotations={policy!r}", f"use {' or '.join(POLICIES)}")
    if args.eval_only:
        _require(
            train.init_checkpoint, "--eval-only without train.init_checkpoint", "name the weights to evaluate"
        )
        _require("evaluator" in cfg.dataloader, "--eval-only", "the config has no dataloader.evaluator")
    _require(
        args.eval_only or "train" in cfg.dataloader,
        "the config has no dataloader.train",
        "it only evaluates; add --eval-only and train.init_checkpoint",
    )
    path = train.init_checkpoint
    if path and "://" not in path and not os.path.exists(path):
        raise CheckpointError(f"train.init_checkpoint={path!r} does not exist; check the path.")


def check_batch(cfg: DictConfig, world_size: int) -> None:
    """Raises ConfigError unless the global batch divides into equal micro-batches."""
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    parts = world_size * cfg.train.accumulate
    _require(
        batch is None or (batch > 0 and batch % parts == 0),
        f"dataloader.train.total_batch_size={batch}",
        f"it must be a multiple of {world_size} process(es) x train.accumulate={cfg.train.accumulate}"
        f" = {parts}",
    )


def check_datasets(cfg: DictConfig, parts: Sequence[str]) -> None:
    """Checks that the dataset names of the loaders are registered, their files exist and are sound.

    COCO and LVIS annotations are read and checked (`check_annotations`), and the model's number of classes
    is compared with theirs. What is evaluated after training is loaded once, so that damage in it is found
    before and not after.

    Args:
        cfg: whole config.
        parts: "train", "test": the loaders that will be used.

    Raises:
        DataError: naming the dataset, what is missing or damaged, and the nearest registered name.
        ConfigError: the model has another number of classes than a data set.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    register_datasets()
    classes: dict[str, Sequence[str]] = {}
    for part in parts:
        names = OmegaConf.select(cfg, f"dataloader.{part}.dataset.names")
        if names is None:
            node = OmegaConf.select(cfg, f"dataloader.{part}.dataset")
            if part == "test" and isinstance(node, DictConfig) and "_target_" in node:
                instantiate(node)  # folders and lists; the training loader is built before the model anyway
            continue
        for name in [names] if isinstance(names, str) else names:
            if name not in DatasetCatalog.list():
                close = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
                hint = f" Nearest: {', '.join(close)}." if close else ""
                raise DataError(f"dataloader.{part}.dataset: {name!r} is not a registered dataset.{hint}")
            metadata = MetadataCatalog.get(name)
            _require(
                not str(metadata.get("evaluator_type")).startswith("cityscapes")
                or _is_installed("cityscapesscripts"),
                f"dataloader.{part}.dataset: {name!r} needs cityscapesscripts, which is not installed",
                "`pip install 'densessl[cityscapes]'`",
            )
            for key in DATASET_PATHS:
                path = getattr(metadata, key, None)
                if isinstance(path, str) and "://" not in path and not os.path.exists(path):
                    how = metadata.get("how_to_build", "Put the data there")
                    raise DataError(
                        f"dataset {name!r}: {path} ({key}) does not exist. {how}, or set "
                        "DETECTRON2_DATASETS to the folder that holds it (datasets/README.md)."
                    )
            guard_annotations(name)
            policy = OmegaConf.select(cfg, "train.bad_annotations", default="raise")
            folder = OmegaConf.select(cfg, "train.output_dir", default="output")
            found = check_annotations(name, policy, folder, training=part == "train")
            if part == "test":
                DatasetCatalog.get(name)
            found = found or metadata.get("thing_classes")
            if found:
                classes[name] = found
    _check_classes(cfg, classes)


def _check_classes(cfg: DictConfig, classes: dict[str, Sequence[str]]) -> None:
    """Raises unless the model and all data sets have the same classes.

    Args:
        classes: data set name -> class names, where known.
    """
    for name, names in classes.items():
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        for key in ("model.roi_heads.num_classes", "model.num_classes"):
            count = OmegaConf.select(cfg, key)
            _require(
                count is None or count == len(names),
                f"{key}={count}, but data set {name!r} has {len(names)} classes ({shown})",
                f"set {key}={len(names)}, or name another data set",
            )
    (first, expected), *others = classes.items() or [("", [])]
    for name, names in others:
        differing = [f"{a!r} and {b!r}" for a, b in zip(expected, names) if a != b]
        if differing or len(names) != len(expected):
            raise DataError(
                f"data sets {first!r} and {name!r} do not have the same classes in the same order: "
                f"{len(expected)} and {len(names)}; first difference: {(differing or ['their number'])[0]}."
            )


def check_evaluator(cfg: DictConfig) -> None:
    """Builds the evaluator once, so that one that refuses the data set does so before and not after training.

    Call it after `check_datasets`, which loads what evaluators look up.
    """
    if "evaluator" in cfg.dataloader:
        instantiate(cfg.dataloader.evaluator)


def amp_dtype(amp: Any, device: torch.device) -> torch.dtype | None:
    """Returns the autocast type for the `train.amp` node, or None for full precision.

    "auto" is bfloat16 where the GPU or the CPU computes in it (a CPU with AVX512-BF16 or AMX units trains a
    ResNet 1.7x as fast), and full precision elsewhere.

    Raises:
        ConfigError: an unknown type, or one the device cannot compute in.
    """
    if not amp.enabled:
        return None
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # torch before 2.6 cannot tell
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    if amp.dtype == "auto":
        return torch.bfloat16 if native else None
    _require(amp.dtype in AMP_TYPES, f"train.amp.dtype={amp.dtype!r}", f"use auto, {' or '.join(AMP_TYPES)}")
    _require(
        device.type == "cpu" or native or amp.dtype != "bfloat16",
        "train.amp.dtype=bfloat16",
        "this GPU has no bfloat16 arithmetic: use float16, or auto for full precision here",
    )
    return AMP_TYPES[amp.dtype]


def _is_installed(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None


def _require(condition: Any, what: str, how: str) -> None:
    if not condition:
        raise ConfigError(f"{what}: {how}.")
