"""Reads what a run left in its output directory: config, metrics, checkpoint, results. Trains nothing."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml
from detectron2.config import LazyConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from densessl.checkpoint.files import list_checkpoints, read_pointer
from densessl.checkpoint.reading import read_training_checkpoint
from densessl.config import load_config
from densessl.errors import ConfigError
from densessl.visualization.curves import Series, read_metrics

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "inference/coco_instances_results.json"
LOG_FILE = "log.txt"
REPOSITORY = Path(__file__).resolve().parents[2]
# What the trainer writes at its start; a resumed run writes it again, and the last line counts.
LOGGED = {
    "recipe": re.compile(r"Namespace\(config_file='([^']*)'"),
    "device": re.compile(r"INFO: Device (\S+), "),
}


@dataclass
class Run:
    """One output directory of `tools/lazyconfig_train_net.py`.

    Attributes:
        name: how the report calls it.
        path: the directory.
        config: as saved by the trainer; interpolations resolve on access.
        metrics: name -> Series; empty before the first log line.
        checkpoint: the newest checkpoint, or None before the first one.
    """

    name: str
    path: Path
    config: DictConfig
    metrics: Mapping[str, Series] = field(default_factory=dict)
    checkpoint: Path | None = None

    @cached_property
    def state(self) -> dict:
        """Content of the newest checkpoint, on CPU; empty before the first one.

        Raises:
            CheckpointError: the file is damaged.
        """
        return read_training_checkpoint(str(self.checkpoint)) if self.checkpoint else {}

    def setting(self, key: str, default=None):
        """The config value at a dotted key, or `default` where the config has none."""
        value = OmegaConf.select(self.config, key)
        return default if value is None else value

    @cached_property
    def logged(self) -> dict[str, str]:
        """What only the log says: "recipe" (config file as given) and "device"; "" where it does not."""
        file = self.path / LOG_FILE
        text = file.read_text(errors="replace") if file.is_file() else ""
        return {name: (pattern.findall(text) or [""])[-1] for name, pattern in LOGGED.items()}

    @property
    def recipe(self) -> Path | None:
        """The recipe that the log names, or None where this checkout does not have it.

        A recipe is a program. Only those of this checkout are run for a log, which may be a stranger's.
        """
        file = (REPOSITORY / self.logged["recipe"]).resolve()
        known = any(file.is_relative_to(REPOSITORY / folder) for folder in ("configs", "projects"))
        return file if known and file.suffix == ".py" and file.is_file() else None

    @property
    def is_pretraining(self) -> bool:
        """Whether the run trains without a test set, as pretraining does and fine-tuning does not."""
        return self.setting("dataloader.test") is None

    @property
    def iterations(self) -> int | None:
        """Optimiser steps that the metrics cover, or None without metrics."""
        ends = [int(s.iterations[-1]) for name, s in self.metrics.items() if not is_result(name)]
        return max(ends) + 1 if ends else None

    @property
    def results(self) -> dict[str, float]:
        """The last evaluation, such as {"bbox/AP": 31.2}; empty when nothing was evaluated yet."""
        return {name: float(s.values[-1]) for name, s in self.metrics.items() if is_result(name)}

    def predictions(self) -> list[dict] | None:
        """What the COCO evaluator wrote for every held-out image, or None when it has not run."""
        file = self.path / PREDICTIONS_FILE
        return json.loads(file.read_text()) if file.is_file() else None


def is_result(name: str) -> bool:
    """Whether a metric is an evaluation result of a detection task."""
    return name.startswith(("bbox/", "segm/"))


def read_run(name: str, path: str | Path) -> Run:
    """Reads an output directory.

    Raises:
        ConfigError: the directory is not there, or is not that of a run.
        DataError: its metrics are damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(
            f"{name}: there is no run directory {str(path)!r}. Give the train.output_dir of the run."
        )
    file = path / CONFIG_FILE
    if not file.is_file():
        raise ConfigError(
            f"{name}: {str(path)!r} has no {CONFIG_FILE}, so it is not the output directory of a run. Give "
            "the folder that the trainer wrote."
        )
    config = read_config(file)
    if "model" not in config or "train" not in config:
        raise ConfigError(f"{name}: {file} is not the config of a run: it lacks model or train.")
    metrics_file = path / METRICS_FILE
    metrics = read_metrics(metrics_file) if metrics_file.is_file() else {}
    return Run(name, path, config, metrics, _newest_checkpoint(path))


def read_run_or_checkpoint(name: str, path: str | Path) -> Run:
    """An output directory, or one training checkpoint of it, which holds the config too.

    Raises:
        ConfigError: there is neither, or the checkpoint holds no config.
        CheckpointError: the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        return read_run(name, path)
    run = Run(name, path.parent, OmegaConf.create(), checkpoint=path)
    if "config" not in run.state:
        raise ConfigError(
            f"{name}: {str(path)!r} holds no config, so its network is not known. Give a checkpoint or the "
            "directory of a run of tools/lazyconfig_train_net.py."
        )
    run.config = OmegaConf.create(run.state["config"])
    return run


def run_folders(paths: Sequence[str]) -> dict[str, str]:
    """Names for run directories; a folder without a config stands for the runs right below it.

    Returns:
        name -> directory: the last part of its path, with the folder above where two would be equal.

    Raises:
        ConfigError: two paths are the same directory.
    """
    found = []
    for path in map(Path, paths):
        below = sorted(file.parent for file in path.glob(f"*/{CONFIG_FILE}"))
        found += [path] if (path / CONFIG_FILE).is_file() or not below else below
    resolved = [path.resolve() for path in found]
    names = [path.name for path in resolved]
    names = [n if names.count(n) == 1 else f"{p.parent.name}/{n}" for n, p in zip(names, resolved)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"Two run directories are called {name!r}; name them: --finetune NAME=RUN_DIR.")
    return {name: str(path) for name, path in zip(names, found)}


class _PlainLoader(yaml.SafeLoader):
    """Reads what `LazyConfig.save` writes without importing or building anything that it names."""


def _plain(loader: yaml.SafeLoader, name: str, node: yaml.Node):
    """`!!python/name:a.b` -> "a.b"; tuples and objects -> plain lists and dicts."""
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return name.partition(":")[2] or loader.construct_scalar(node)


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def read_config(file: str | Path) -> DictConfig:
    """Reads a `config.yaml`; functions are their dotted names, interpolations stay.

    `LazyConfig.load` would run what the file names: fine for one's own training, not for showing a run.

    Raises:
        ConfigError: the file is not a config.
    """
    try:
        config = OmegaConf.create(yaml.load(Path(file).read_text(), Loader=_PlainLoader))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read as a config: {error}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(
            f"{file} is not a config: it holds a {type(config).__name__}, not settings by name."
        )
    return config


def read_recipe(file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A recipe, with overrides, in the form in which a run of it saves its config, for comparison.

    Raises:
        ConfigError: see `densessl.config.load_config`.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / CONFIG_FILE
        LazyConfig.save(load_config(file, overrides), str(saved))
        return read_config(saved)


def _newest_checkpoint(path: Path) -> Path | None:
    pointed = read_pointer(str(path))
    if pointed is not None and Path(pointed).is_file():
        return Path(pointed)
    # The pointer moves last: a run killed in between has a complete file that it does not name yet.
    written = list_checkpoints(str(path))
    return Path(written[-1][1]) if written else None
