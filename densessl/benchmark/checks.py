"""What can be known to be wrong with a benchmark before its first run."""

import contextlib
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence

from detectron2.config import instantiate
from omegaconf import DictConfig, OmegaConf

from densessl.benchmark.cells import PRETRAIN, Cell
from densessl.benchmark.leaks import refuse_leaks
from densessl.checkpoint.compare import shorten, tree_differences
from densessl.checkpoint.state import plain_config
from densessl.checkpoint.transfer import load_initial_weights
from densessl.config import load_config
from densessl.data.build import names_digest
from densessl.engine import checks
from densessl.errors import ConfigError, DensesslError


def load_configs(cells: Sequence[Cell]) -> dict[str, DictConfig]:
    """Loads the config of every cell, without seed, weights and directory: cell name -> config.

    Raises:
        ConfigError: a file or override is wrong; the message names the cell.
    """
    loaded: dict[tuple, DictConfig] = {}
    for cell in cells:
        key = (cell.config, cell.overrides)
        if key not in loaded:
            with _named(cell):
                loaded[key] = load_config(cell.config, cell.overrides)
    return {cell.name: loaded[cell.config, cell.overrides] for cell in cells}


def check_runs(cells: Sequence[Cell], configs: Mapping[str, DictConfig], processes: int) -> None:
    """Values, batch sizes and data sets of all cells; each config once.

    Args:
        processes: of each run (`--num-gpus`).

    Raises:
        DensesslError: naming the cell and what the trainer would say of it.
    """
    seen: set[int] = set()
    for cell in cells:
        cfg = configs[cell.name]
        if id(cfg) in seen:
            continue
        seen.add(id(cfg))
        with _named(cell):
            checks.check_values(cfg, Namespace(eval_only=False))
            checks.check_batch(cfg, processes)
            checks.check_datasets(cfg, ("train", "test"))
            if cell.metrics and "evaluator" not in cfg.dataloader:
                raise ConfigError(f"{cell.config} has no dataloader.evaluator, so it gives no results.")


def check_weights(
    cells: Sequence[Cell], configs: Mapping[str, DictConfig], progress: Callable[[str], None] = print
) -> None:
    """Loads the given weights of every cell into its model, on the CPU; each pair once.

    Raises:
        CheckpointError: weights that the trainer would refuse.
    """
    models: dict[int, object] = {}
    seen: set[tuple[int, str]] = set()
    for cell in cells:
        cfg = configs[cell.name]
        if not cell.start or (id(cfg), cell.start) in seen:
            continue
        seen.add((id(cfg), cell.start))
        with _named(cell):
            if id(cfg) not in models:
                models.clear()  # one model in memory
                models[id(cfg)] = instantiate(cfg.model)
            report = load_initial_weights(models[id(cfg)], cell.start, cfg.train.allow_partial)
        progress(f"{cell.row} in {cell.task}: {len(report.loaded)} tensors load from {report.path}")


def check_fair(
    cells: Sequence[Cell], configs: Mapping[str, DictConfig], keys: Mapping[str, Sequence[str]]
) -> None:
    """Compares what must be equal in all methods: data, views, trunk, budget, fine-tuning.

    Args:
        keys: task (`PRETRAIN` or a downstream one) -> dotted config keys.

    Raises:
        ConfigError: two methods differ in one of the keys, or lack it.
    """
    first: dict[str, tuple[Cell, dict]] = {}
    for cell in cells:
        values = {}
        for key in keys[cell.task]:
            value = OmegaConf.select(configs[cell.name], key)
            if value is None:
                raise ConfigError(
                    f"{cell.name}: the suite wants {key} to be equal in all methods; it is not set."
                )
            values[key] = plain_config(value)
        other, expected = first.setdefault(cell.task, (cell, values))
        changes = tree_differences(expected, values)
        if changes:
            told = shorten([f"{key}: {change}" for key, change in changes.items()])
            raise ConfigError(f"{other.name} and {cell.name} must be equal in these settings: {told}.")


def check_leaks(
    cells: Sequence[Cell], configs: Mapping[str, DictConfig], progress: Callable[[str], None] = print
) -> dict[str, dict]:
    """Compares all training pictures, of pretraining and of fine-tuning, with the validation pictures.

    Returns:
        {"train: ..." or "validation: ...": {"images": number, "digest": of their names}}: what was compared.

    Raises:
        DataError: a validation picture is among the training pictures.
    """
    validation, training = {}, {}
    for cell in cells:
        dataloader = configs[cell.name].dataloader
        if cell.metrics:
            _open_once(validation, dataloader.test.dataset)
        _open_once(training, dataloader.train.dataset)
    facts = {}
    for name, pictures in training.items():
        for other, held_out in validation.items():
            progress(f"{name}: {len(pictures)} pictures against {len(held_out)} of {other}, by path and hash")
            refuse_leaks(name, (pictures[i] for i in range(len(pictures))), held_out)
    for kind, found in (("train", training), ("validation", validation)):
        for name, pictures in found.items():
            facts[f"{kind}: {name}"] = {"images": len(pictures), "digest": names_digest(pictures)}
    return facts


def task_keys(
    cells: Sequence[Cell], pretrain: Sequence[str], downstream: Sequence[str]
) -> dict[str, Sequence[str]]:
    """Which keys `check_fair` compares in which task."""
    return {cell.task: pretrain if cell.task == PRETRAIN else downstream for cell in cells}


@contextlib.contextmanager
def _named(cell: Cell) -> Iterator[None]:
    """Puts a cell's name before the message of an error."""
    try:
        yield
    except DensesslError as error:
        raise type(error)(f"{cell.row} in {cell.task}: {error}") from error


def _open_once(opened: dict[str, object], node: DictConfig) -> None:
    """Adds the records of a data set node under a description of it, unless they are there."""
    options = {k: plain_config(v) for k, v in node.items() if k != "_target_" and v is not None}
    name = options.pop("source", None) or options.pop("names", None)
    label = ", ".join(name) if isinstance(name, list) else str(name)
    rest = ", ".join(f"{key}={value}" for key, value in sorted(options.items()))
    description = f"{label} ({rest})" if rest else label
    if description not in opened:
        opened[description] = instantiate(node)
