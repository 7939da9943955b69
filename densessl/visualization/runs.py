"""Reads what a run left in its output directory: config, metrics, checkpoint, results. Trains nothing."""

from __future__ import annotations

import json
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
