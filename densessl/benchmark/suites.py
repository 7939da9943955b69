"""Reads suite files: the table of downstream tasks, and the comparisons of pretraining methods.

A suite file is a LazyConfig `.py` file in configs/benchmarks with one dict: `tasks` (transfer.py) or `suite`.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from densessl.benchmark.cells import PRETRAIN, is_name
from densessl.config import config_root
from densessl.errors import ConfigError

FOLDER = "benchmarks"


@dataclass(frozen=True)
class Task:
    """A downstream fine-tuning.

    Attributes:
        name: in tables and directories.
        title: what it is, in words.
        config: path of the config file.
        metrics: results for the table, such as "bbox/AP".
        overrides: `key=value`, applied to every run of it.
    """

    name: str
    title: str
    config: str
    metrics: tuple[str, ...]
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """Hyper-parameters of a method, as overrides of its two configs."""

    pretrain: tuple[str, ...] = ()
    downstream: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """A row of a comparison.

    Attributes:
        name: in tables and directories.
        config: path of its pretraining config, "" for random initialisation.
        trials: hyper-parameters that were, or are to be, tried.
        chosen: index of the trial that the comparison uses.
        tuned: what came out of the trials, in words; "" when they have not been run.
    """

    name: str
    config: str
    trials: tuple[Trial, ...]
    chosen: int
    tuned: str


@dataclass(frozen=True)
class Comparison:
    """A suite of `tools/compare_methods.py`.

    Attributes:
        name: of the file.
        title: what is compared, in words.
        data: the command that builds the data.
        methods: the rows.
        tasks: the fine-tunings.
        baseline: method that the others are compared with.
        same_pretrain, same_downstream: config keys that must be equal in all methods.
        select: task and metric by which the trials of a method are judged; greater is better.
        pretrain, downstream: overrides of all pretrainings and fine-tunings (those of `tiny`).
        tuning_seed: of the trials; no seed of a table.
    """

    name: str
    title: str
    data: str
    methods: tuple[Method, ...]
    tasks: tuple[Task, ...]
    baseline: str
    same_pretrain: tuple[str, ...]
    same_downstream: tuple[str, ...]
    select: tuple[str, str]
    pretrain: tuple[str, ...] = ()
    downstream: tuple[str, ...] = ()
    tuning_seed: int = field(default=1000)


def read_tasks(names: Sequence[str], file: Path | None = None) -> tuple[Task, ...]:
    """The named entries of `tasks` in `file` (default: configs/benchmarks/transfer.py), in the order given.

    Raises:
        ConfigError: an unknown name (the message lists the known ones), a name given twice, or none.
    """
    file = file or config_root() / FOLDER / "transfer.py"
    table = _load(file, "tasks")
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--suite {','.join(names)}: name at least one task, each once.")
    for name in names:
        if name not in table:
            raise ConfigError(f"--suite: unknown task {name!r}.{nearest(name, table)} They are in {file}.")
    return tuple(_task(name, table[name], file) for name in names)


def known_tasks(file: Path | None = None) -> list[str]:
    """All names that `read_tasks` takes."""
    return list(_load(file or config_root() / FOLDER / "transfer.py", "tasks"))


def read_comparison(name: str, tiny: bool = False) -> Comparison:
    """The suite in configs/benchmarks/NAME.py, or in the file NAME.

    Args:
        name: "mini_rcnn" ("mini-rcnn" is the same), or a path that ends in .py.
        tiny: with the suite's overrides for a smoke test.

    Raises:
        ConfigError: there is no such suite, or the file does not hold one.
    """
    folder = config_root() / FOLDER
    file = Path(name) if name.endswith(".py") else folder / f"{name.replace('-', '_')}.py"
    if not file.is_file():
        known = sorted(path.stem for path in folder.glob("*.py") if path.stem != "transfer")
        raise ConfigError(f"--suite {name}: there is no file {file}.{nearest(file.stem, known)}")
    content = _load(file, "suite")
    required = {"title", "data", "methods", "tasks", "baseline", "same", "select", "tiny"}
    _check_keys(content, required, {"tuning_seed"}, f"{file}: suite")
    _check_keys(content["select"], {"task", "metric"}, set(), f"{file}: suite.select")
    for part in ("same", "tiny"):
        _check_keys(content[part], {"pretrain", "downstream"}, set(), f"{file}: suite.{part}")
    methods = tuple(_method(key, value, file) for key, value in content["methods"].items())
    _check_trials(methods, file)
    if content["baseline"] not in content["methods"]:
        raise ConfigError(f"{file}: suite.baseline {content['baseline']!r} is none of the methods.")
    tasks = tuple(_task(key, value, file) for key, value in content["tasks"].items())
    select = (content["select"]["task"], content["select"]["metric"])
    if select not in [(task.name, metric) for task in tasks for metric in task.metrics]:
        raise ConfigError(f"{file}: suite.select {' '.join(select)} is no result of its tasks.")
    return Comparison(
        name=file.stem,
        title=content["title"],
        data=content["data"],
        methods=methods,
        tasks=tasks,
        baseline=content["baseline"],
        same_pretrain=tuple(content["same"]["pretrain"]),
        same_downstream=tuple(content["same"]["downstream"]),
        select=select,
        pretrain=tuple(content["tiny"]["pretrain"]) if tiny else (),
        downstream=tuple(content["tiny"]["downstream"]) if tiny else (),
        tuning_seed=content.get("tuning_seed", 1000),
    )


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """ " Did you mean ...? Known: ..." for a message."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known)}."


def _load(file: Path, name: str) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(LazyConfig.load(str(file)), resolve=True)
    except Exception as error:  # a suite file is a program: anything can go wrong in it
        raise ConfigError(f"{file} cannot be loaded: {type(error).__name__}: {error}") from error
    if name not in content:
        raise ConfigError(f"{file} holds no dict `{name}`, so it is not a suite of this tool.")
    return content[name]


def _task(name: str, content: Mapping[str, Any], file: Path) -> Task:
    where = f"{file}: task {name!r}"
    _check_keys(content, {"title", "config", "metrics"}, {"overrides"}, where)
    if not is_name(name) or name == PRETRAIN:
        raise ConfigError(f"{where}: use letters, digits and _.+- in the name, and not {PRETRAIN!r}.")
    overrides = tuple(content.get("overrides", ()))
    config = _config_path(content["config"], where)
    return Task(name, content["title"], config, tuple(content["metrics"]), overrides)


def _method(name: str, content: Mapping[str, Any], file: Path) -> Method:
    where = f"{file}: method {name!r}"
    _check_keys(content, {"config", "trials", "chosen", "tuned"}, set(), where)
    if not is_name(name):
        raise ConfigError(f"{where}: use letters, digits and _.+- in the name.")
    for trial in content["trials"]:
        _check_keys(trial, set(), {"pretrain", "downstream"}, f"{where}, trials")
    trials = [Trial(tuple(t.get("pretrain", ())), tuple(t.get("downstream", ()))) for t in content["trials"]]
    if not 0 <= content["chosen"] < len(trials):
        raise ConfigError(f"{where}: chosen={content['chosen']} is none of its {len(trials)} trials.")
    if not content["config"] and any(trial.pretrain for trial in trials):
        raise ConfigError(f"{where}: it has no pretraining config, so no pretraining hyper-parameters.")
    config = _config_path(content["config"], where) if content["config"] else ""
    return Method(name, config, tuple(trials), content["chosen"], content["tuned"])


def _check_trials(methods: Sequence[Method], file: Path) -> None:
    """All methods get the same number of trials: tuning one longer would decide the comparison."""
    counts = {method.name: len(method.trials) for method in methods}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ConfigError(f"{file}: the methods have different numbers of trials ({told}).")


def _config_path(config: str, where: str) -> str:
    """Path of a config named relative to configs/; below the current directory it is relative."""
    path = Path(config) if os.path.isabs(config) else config_root() / config
    if not path.is_file():
        raise ConfigError(f"{where}: there is no config file {path}.")
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _check_keys(content: Mapping[str, Any], required: set[str], optional: set[str], where: str) -> None:
    missing, unknown = required - content.keys(), content.keys() - required - optional
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(sorted(missing))}.")
    if unknown:
        raise ConfigError(
            f"{where}: unknown {', '.join(sorted(unknown))}; it takes {sorted(required | optional)}."
        )
