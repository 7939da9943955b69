"""Builds the parts of a run from a config and runs it: `run`, `do_train`, `do_test`.

Order: everything that can fail without a model comes before the model (values, output directory, data).
"""

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import warnings
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.hooks import CallbackHook
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

import densessl
from densessl.checkpoint.checkpointer import TrainingCheckpointer
from densessl.checkpoint.files import FINAL
from densessl.checkpoint.state import plain_config
from densessl.checkpoint.transfer import load_initial_weights
from densessl.data.build import ResumableLoader
from densessl.engine import checks, model_transforms
from densessl.engine.events import WriterHook, build_writers
from densessl.engine.hooks import (
    CheckpointHook,
    EMAHook,
    EvaluationHook,
    ParamScheduleHook,
    Schedule,
    ThroughputHook,
)
from densessl.engine.launch import resolve_device
from densessl.engine.log_file import guard_log_files
from densessl.engine.run_directory import RunDirectory, check_writable
from densessl.engine.signals import SignalHook
from densessl.engine.train_loop import Trainer
from densessl.errors import ConfigError

_logger = logging.getLogger(__name__)


def run(cfg: DictConfig, args: Namespace) -> dict:
    """Trains, or evaluates with `--eval-only`; runs in every process. Returns the evaluation's results."""
    checks.check_values(cfg, args)
    checks.check_batch(cfg, comm.get_world_size())
    device = torch.device(resolve_device(cfg.train.device))
    precision = checks.amp_dtype(cfg.train.amp, device)
    if args.eval_only:
        if comm.is_main_process():
            check_writable(cfg.train.output_dir)
        setup_process(cfg, args, device)
        return _evaluate_only(cfg, device)
    owner = RunDirectory(cfg.train.output_dir, resume=args.resume)
    with owner if comm.is_main_process() else contextlib.nullcontext():
        setup_process(cfg, args, device)
        return do_train(cfg, args, device, precision)


def setup_process(cfg: DictConfig, args: Namespace, device: torch.device) -> None:
    """Logging, seeds, threads and precision of this process; saves `config.yaml`."""
    rank, train = comm.get_rank(), cfg.train
    # an evaluation may look at a run that is going on: it leaves that run's log and config alone
    log = os.path.join(train.output_dir, "eval_log.txt" if args.eval_only else "log.txt")
    loggers = ("fvcore", "detectron2", "densessl")
    for name in loggers:
        setup_logger(log, distributed_rank=rank, name=name)
    guard_log_files(loggers)
    if comm.is_main_process():
        _logger.info("Environment: %s", _environment(device))
        _logger.info("Arguments: %s", args)
        if not args.eval_only:
            LazyConfig.save(cfg, os.path.join(train.output_dir, "config.yaml"))
    # Equal on all ranks while the model is built; do_train then adds the rank.
    seed_all_rng(train.seed)
    if device.type == "cpu" and comm.get_local_size() > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // comm.get_local_size()))
    # TF32: ten mantissa bits for float32 products on a GPU; bfloat16 runs have fewer anyway
    exact = device.type == "cpu" or train.deterministic or not train.amp.enabled
    torch.set_float32_matmul_precision("highest" if exact else "high")
    torch.backends.cudnn.allow_tf32 = not exact
    # Searching the fastest kernel pays when all batches have one size: pretraining, not detection.
    torch.backends.cudnn.benchmark = not train.deterministic and not _has_detection_inputs(cfg)
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic = True
    _logger.info(
        "Device %s, %d process(es), %d thread(s) each, float32 products %s, deterministic %s",
        *(device, comm.get_world_size(), torch.get_num_threads()),
        *("exact" if exact else "TF32", bool(train.deterministic)),
    )


def build_model(cfg: DictConfig, device: torch.device) -> nn.Module:
    """Instantiates `cfg.model` on `device`, with the switches of `cfg.train` applied."""
    model = instantiate(cfg.model)
    if device.type == "cpu":
        model_transforms.replace_sync_bn(model)
    model.to(device)
    if cfg.train.channels_last:
        model_transforms.to_channels_last(model)
    if cfg.train.activation_checkpointing:
        model_transforms.checkpoint_activations(model)
    if cfg.train.compile:
        model_transforms.compile_forward(model)
    return model


def build_optimizer(cfg: DictConfig, model: nn.Module, batch: int) -> torch.optim.Optimizer:
    """Instantiates `cfg.optimizer` over the model's parameters, after the batch/lr rule.

    Args:
        batch: images per optimiser step, over all ranks and micro-batches.
    """
    scaling, lr = cfg.train.lr_scaling, cfg.optimizer.lr
    scaled = lr
    if scaling.enabled:
        scaled = lr * batch / scaling.base_batch
        _logger.info(
            "lr = optimizer.lr * batch / base_batch = %g * %d / %d = %g",
            lr,
            batch,
            scaling.base_batch,
            scaled,
        )
    else:
        _logger.info(
            "lr = optimizer.lr = %g at batch %d, as written (train.lr_scaling.enabled=false)", lr, batch
        )
    try:
        cfg.optimizer.lr, cfg.optimizer.params.model = scaled, model
        return instantiate(cfg.optimizer)
    except ValueError as error:  # torch's own check of the numbers
        raise ConfigError(f"optimizer: {error}") from error
    finally:  # the config stays what the user wrote
        cfg.optimizer.lr = lr
        del cfg.optimizer.params["model"]


def wrap_ddp(cfg: DictConfig, model: nn.Module, device: torch.device) -> nn.Module:
    """Returns the model in DistributedDataParallel when there are several processes."""
    options = dict(cfg.train.ddp)
    options["device_ids"] = [torch.cuda.current_device()] if device.type == "cuda" else None
    with warnings.catch_warnings():
        # torch 2.14 renames the option that detectron2's configs carry; 2.4 knows only the old name
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        return create_ddp_model(model, **options)


def do_train(cfg: DictConfig, args: Namespace, device: torch.device, precision: torch.dtype | None) -> dict:
    """Trains to `train.max_iter`: from scratch, from `init_checkpoint`, or on from where the run stopped."""
    checks.check_datasets(cfg, ("train", "test"))
    checks.check_evaluator(cfg)
    loader = instantiate(cfg.dataloader.train)
    if not isinstance(loader, ResumableLoader):
        raise ConfigError(
            f"dataloader.train builds a {type(loader).__name__}; use densessl.data.build.build_train_loader, "
            "which takes the same datasets and mappers and can be resumed."
        )
    if loader.accumulate != cfg.train.accumulate:
        raise ConfigError(
            f"dataloader.train.accumulate={loader.accumulate} differs from train.accumulate="
            f'{cfg.train.accumulate}; write accumulate="${{train.accumulate}}" in the loader\'s node.'
        )
    loader.set_output_dir(cfg.train.output_dir)
    config = plain_config(cfg)
    model = build_model(cfg, device)
    if hasattr(model, "validate_batch"):  # a queue is filled by whole steps
        model.validate_batch(loader.total_batch_size, comm.get_world_size())
    if hasattr(model, "check_dataset"):
        model.check_dataset(loader.num_images)
    optimizer = build_optimizer(cfg, model, loader.total_batch_size)
    trainer = Trainer(
        wrap_ddp(cfg, model, device),
        loader,
        optimizer,
        device=device,
        output_dir=cfg.train.output_dir,
        accumulate=cfg.train.accumulate,
        amp_dtype=precision,
        clip_norm=cfg.train.clip_grad.norm,
        clip_value=cfg.train.clip_grad.value,
        log_period=cfg.train.log_period,
    )
    seed_all_rng(cfg.train.seed + comm.get_rank())
    checkpointer = TrainingCheckpointer(
        model,
        cfg.train.output_dir,
        data=loader,
        config=config,
        max_to_keep=cfg.train.checkpointer.max_to_keep,
        optimizer=optimizer,
        trainer=trainer,
    )
    results: dict = {}
    _register_hooks(cfg, trainer, checkpointer, results)
    start = _starting_point(cfg, args, checkpointer, model)
    if start >= cfg.train.max_iter:
        checkpointer.save_step(start, final=True)  # a kill may have come before it had its second name
        _say_finished(cfg)
        return {}
    loader.set_step(start)
    if comm.is_main_process():
        writers = build_writers(cfg.train.output_dir, cfg.train.max_iter, start, cfg.train.wandb, config)
        trainer.register_hooks([WriterHook(writers, cfg.train.log_period, cfg.train.output_dir)])
    # last: nothing random may happen between this and the first step
    trainer.register_hooks([CallbackHook(before_train=lambda trainer: checkpointer.restore_rng())])
    with contextlib.closing(trainer):
        trainer.train(start, cfg.train.max_iter)
    return results


def do_test(cfg: DictConfig, model: nn.Module, iteration: int | None = None) -> dict:
    """Evaluates `model` on `dataloader.test`; the main process writes `evaluation.json`.

    Returns:
        nested dict of numbers {task: {metric: value}} on the main process; {} elsewhere and for a config
        without an evaluator.
    """
    if "evaluator" not in cfg.dataloader:
        return {}
    from detectron2.evaluation import inference_on_dataset, print_csv_format

    # the loader first: detectron2's evaluators map category ids by what loading the dataset registers
    loader = instantiate(cfg.dataloader.test)
    results = inference_on_dataset(model, loader, instantiate(cfg.dataloader.evaluator))
    if not comm.is_main_process():
        return {}
    results = _plain_numbers(results or {})
    print_csv_format(results)
    with open(os.path.join(cfg.train.output_dir, "evaluation.json"), "w") as file:
        json.dump({"iteration": iteration, "results": _null_for_nan(results)}, file, indent=1)
    return results


def _evaluate_only(cfg: DictConfig, device: torch.device) -> dict:
    checks.check_datasets(cfg, ("test",))
    checks.check_evaluator(cfg)
    model = build_model(cfg, device).eval()
    load_initial_weights(
        model, cfg.train.init_checkpoint, cfg.train.allow_partial, require_all=not cfg.train.allow_partial
    )
    return do_test(cfg, model)


def _register_hooks(
    cfg: DictConfig, trainer: Trainer, checkpointer: TrainingCheckpointer, results: dict
) -> None:
    """Registers what a resume needs to find, in order of execution."""
    train = cfg.train
    schedules = [Schedule("lr", instantiate(cfg.lr_multiplier)), *_instances(cfg, "schedules", Schedule)]

    def evaluate() -> dict:
        results.clear()
        results.update(do_test(cfg, trainer.module, min(trainer.iter + 1, trainer.max_iter)))
        return results

    checkpoints = CheckpointHook(checkpointer.save_step, train.checkpointer.period)
    trainer.register_hooks(
        [
            ParamScheduleHook(schedules, trainer.optimizer, train.max_iter),
            *_instances(cfg, "hooks", HookBase),
            EMAHook(trainer.module, train.ema.module, train.ema.momentum) if train.ema.enabled else None,
            ThroughputHook(trainer.data_loader.total_batch_size, trainer.device),
            checkpoints,
            # before the evaluation, so that a signal during the last one ends the process
            SignalHook(checkpoints.save_now),
            EvaluationHook(train.eval_period, evaluate) if "evaluator" in cfg.dataloader else None,
        ]
    )


def _instances(cfg: DictConfig, key: str, kind: type) -> list:
    """Builds the nodes of the list `train.<key>`; each must give a `kind`."""
    items = list(instantiate(cfg.train[key]))
    for index, item in enumerate(items):
        if not isinstance(item, kind):
            raise ConfigError(
                f"train.{key}[{index}] is {item!r}; it must be a node that builds a {kind.__name__}, "
                f"L({kind.__name__})(...) in the config file."
            )
    return items


def _say_finished(cfg: DictConfig) -> None:
    """Logs what a run directory holds whose iterations are all done."""
    folder = cfg.train.output_dir
    names = (FINAL, "metrics.json", "evaluation.json", "config.yaml")
    found = ", ".join(name for name in names if os.path.exists(os.path.join(folder, name)))
    _logger.info("All %d iterations are done already. %s holds %s.", cfg.train.max_iter, folder, found)
    path = os.path.join(folder, "evaluation.json")
    if comm.is_main_process() and os.path.exists(path):
        with open(path) as file:
            results = json.load(file)["results"]
        for task, values in results.items():
            if isinstance(values, dict):  # "AP-<class>" is a row of the table in the log
                numbers = (f"{k} {v:.2f}" for k, v in values.items() if v is not None and "-" not in k)
                _logger.info("%s: %s", task, "  ".join(numbers))
    hint = "; --eval-only evaluates" if "evaluator" in cfg.dataloader else ""
    _logger.info("A greater train.max_iter continues the run%s.", hint)


def _starting_point(
    cfg: DictConfig, args: Namespace, checkpointer: TrainingCheckpointer, model: nn.Module
) -> int:
    """Loads a checkpoint or initial weights; returns the iteration to start at and says which it was."""
    start = checkpointer.resume() if args.resume else None
    if start is not None:
        return start
    if args.resume:
        _logger.info("--resume: %s holds no checkpoint; starting a new run.", cfg.train.output_dir)
    if cfg.train.init_checkpoint:
        load_initial_weights(model, cfg.train.init_checkpoint, cfg.train.allow_partial)
        _logger.info("Starting from the weights of %s", cfg.train.init_checkpoint)
    else:
        _logger.info("Starting from random weights (seed %d).", cfg.train.seed)
    checkpointer.check_saveable()
    return 0


def _environment(device: torch.device) -> str:
    """One line; detectron2's collect_env_info takes a second and prints PyTorch's compiler flags."""
    packages = ("torch", "torchvision", "detectron2", "numpy", "pillow")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU used"
    return ", ".join(
        [f"densessl {densessl.__version__}", f"Python {platform.python_version()}", *versions, gpu]
    )


def _has_detection_inputs(cfg: DictConfig) -> bool:
    """Whether batches are lists of images of many sizes: such a loader has no collate function."""
    return OmegaConf.select(cfg, "dataloader.train.collate_fn") is None


def _plain_numbers(results: Mapping[str, Any]) -> dict:
    """Nested dict with every leaf a float: some evaluators return numpy numbers."""
    return {k: _plain_numbers(v) if isinstance(v, Mapping) else float(v) for k, v in results.items()}


def _null_for_nan(results: Mapping[str, Any]) -> dict:
    return {
        k: _null_for_nan(v) if isinstance(v, Mapping) else (v if math.isfinite(v) else None)
        for k, v in results.items()
    }
