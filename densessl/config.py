"""Loads LazyConfig files and checks them, and the command line's overrides, before anything is built.

Detectron2 accepts a misspelt override in silence (detectron2/config/lazy.py, `apply_overrides`): it
adds a key that nobody reads. Here every key must already be in the config, or be an argument of the
class that its node names.
"""

import difflib
import inspect
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from densessl.errors import ConfigError, DensesslError

NOUNS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def config_root() -> Path:
    """Returns the folder of the shared configs: inside the wheel, or at the root of a checkout."""
    package = Path(__file__).parent
    for root in (package / "configs", package.parent / "configs"):
        if (root / "common").is_dir():
            return root
    raise ConfigError(f"The shared configs are neither in {package / 'configs'} nor beside {package}.")


def get_config(name: str) -> DictConfig:
    """Returns a shared config, e.g. `get_config("common/train.py").train`, as detectron2's model zoo does.

    Raises:
        ConfigError: there is no such file; the message names the nearest one.
    """
    root = config_root()
    if not (root / name).is_file():
        known = [str(path.relative_to(root)) for path in root.rglob("*.py")]
        raise ConfigError(f"There is no shared config {name!r} in {root}.{_nearest(name, known)}")
    return LazyConfig.load(str(root / name))


def load_config(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Loads a config file, applies `key=value` overrides and checks the result.

    Args:
        path: a LazyConfig `.py` file, or the `config.yaml` of a run.
        overrides: in Hydra's grammar, e.g. `train.max_iter=100`, `model.queue_size=1024`.

    Raises:
        ConfigError: no such file, a syntax error, an unknown noun or key (naming the nearest valid
            one), a value of the wrong type, or a value still to be filled in (`???`).
    """
    if not Path(path).is_file():
        folder = Path(path).parent
        known = [str(file) for file in folder.glob("*.py")] if folder.is_dir() else []
        raise ConfigError(f"There is no config file {path!r}.{_nearest(path, known)}")
    try:
        cfg = LazyConfig.load(str(path))
    except DensesslError:
        raise
    except Exception as error:  # a config is a program: anything can go wrong in it
        raise ConfigError(f"{path} cannot be loaded: {_where(error)}") from error
    for noun in cfg:
        if noun not in NOUNS:
            raise ConfigError(
                f"{path}: unknown top-level name {noun!r}; a config has {', '.join(NOUNS)} and no other."
                f"{_nearest(noun, NOUNS)} Names that start with an underscore are private to the file."
            )
    missing = [noun for noun in NOUNS if noun not in cfg]
    if missing:
        raise ConfigError(f"{path}: the config has no {', '.join(missing)}.")
    _note_base_batch(cfg)
    apply_overrides(cfg, overrides)
    check_config(cfg)
    return cfg


def _note_base_batch(cfg: DictConfig) -> None:
    """Writes down the batch that `optimizer.lr` belongs to, before an override changes it."""
    scaling = OmegaConf.select(cfg, "train.lr_scaling")
    if scaling is not None and scaling.base_batch is None:
        scaling.base_batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Applies `key=value` overrides in place; each key and type is checked first.

    Raises:
        ConfigError: see `load_config`; the message holds the override as it was given.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for text in overrides:
        try:
            (override,) = OverridesParser.create().parse_overrides([text])
        except HydraException as error:
            raise ConfigError(f"Override {text!r} is not of the form key=value: {error}") from error
        if override.is_delete() or override.is_add() or override.is_force_add():
            raise ConfigError(
                f"Override {text!r}: keys cannot be added or deleted here; edit the config file."
            )
        key, value = override.key_or_group, override.value()
        current = _lookup(cfg, key, text)
        # {_target_: ...} stands for the whole node: the arguments of another class are of no use to it
        replaces = isinstance(value, dict) and "_target_" in value
        if not replaces:
            _check_type(cfg, key, current, value, text)
        try:
            OmegaConf.update(cfg, key, value, merge=not replaces)
        except OmegaConfBaseException as error:
            raise ConfigError(f"Override {text!r} cannot be applied: {error}") from error


def check_config(cfg: DictConfig) -> None:
    """Checks every node of a config without building anything.

    Raises:
        ConfigError: a node has a key that its class does not take, or a value is still `???`.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(
            f"The config leaves these values open: {', '.join(missing)}. Give them on the command line, "
            f"e.g. {missing[0]}=VALUE, or in the config file."
        )
    for path, node in _lazy_nodes(cfg):
        accepted = _arguments(node)
        if accepted is None:
            continue
        for key in node:
            if key != "_target_" and key not in accepted:
                raise ConfigError(
                    f"{path}.{key}: {_target_name(node)} takes no argument {key!r}.{_nearest(key, accepted)}"
                )


def _where(error: Exception) -> str:
    """What went wrong in a config file, with file and line."""
    if isinstance(error, SyntaxError) and isinstance(error.__cause__, SyntaxError):
        error = error.__cause__  # detectron2 leaves out the line
        return f"SyntaxError: {error}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"


_ABSENT = object()


def _lookup(cfg: DictConfig, key: str, text: str) -> Any:
    """Returns the value now at `key`, or `_ABSENT` when it is an argument not yet in its node."""
    node, parts = cfg, key.split(".")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth]) or "the config"
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(
                    f"Override {text!r}: {where} is a list of {len(node)}; {part!r} is not in it."
                )
            node = node[int(part)]
            continue
        if not isinstance(node, DictConfig):
            raise ConfigError(f"Override {text!r}: {where} is {node!r}, which has no key {part!r}.")
        if part not in node:
            accepted = _arguments(node) if "_target_" in node else ()
            if accepted is not None and part not in accepted:
                known = [name for name in dict.fromkeys((*node, *accepted)) if name != "_target_"]
                raise ConfigError(f"Override {text!r}: {where} has no key {part!r}.{_nearest(part, known)}")
            if depth < len(parts) - 1:
                raise ConfigError(
                    f"Override {text!r}: {where}.{part} is not set, so nothing below it can be."
                )
            return _ABSENT
        if OmegaConf.is_missing(node, part):
            return _ABSENT
        node = node[part]
    return node


def _check_type(cfg: DictConfig, key: str, current: Any, value: Any, text: str) -> None:
    """Refuses a value whose type differs from the one it replaces (an int may stand for a float).

    An argument may also take what its annotation allows, a list of sources for one, say; that alone decides
    where no value stands yet.
    """
    if value is None or (isinstance(value, str) and "${" in value):
        return
    if isinstance(current, DictConfig):
        if not isinstance(value, dict):
            raise ConfigError(f"Override {text!r}: {key} holds several values; set one of {list(current)}.")
        for name, item in value.items():
            _check_type(cfg, f"{key}.{name}", _lookup(cfg, f"{key}.{name}", text), item, text)
        return
    annotated = _annotated_types(cfg, key, current)
    expected: tuple[type, ...]
    if current is _ABSENT or current is None:
        expected = annotated
    elif isinstance(current, bool):
        expected = (bool,)
    elif isinstance(current, int):
        expected = (int,)
    elif isinstance(current, float):
        expected = (int, float)
    elif isinstance(current, str):
        expected = (str,)
    elif isinstance(current, (ListConfig, tuple)):
        expected = (list,)
    else:
        return
    expected += annotated
    if not expected:
        return
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        names = [kind.__name__ for kind in dict.fromkeys(expected) if not (kind is int and float in expected)]
        hint = f""" Quote it: '{key}="{value}"'.""" if expected == (str,) else ""
        raise ConfigError(
            f"Override {text!r}: {key} is {None if current is _ABSENT else current!r}, so it takes "
            f"{' or '.join(names)}, not {type(value).__name__}.{hint}"
        )


def _annotated_types(cfg: DictConfig, key: str, current: Any) -> tuple[type, ...]:
    """Types, as a config holds them, that the argument at `key` is annotated with; () if that is unknown.

    An argument without annotation that is a string or a list may be either (detectron2's data set names).
    """
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return ()
    parameter = (_parameters(node) or {}).get(name)
    if parameter is None:
        return ()
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return (str, list) if isinstance(current, (str, ListConfig)) else ()
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    allowed: list[type] = []
    for member in typing.get_args(annotation) if union else (annotation,):
        kind = typing.get_origin(member) or member
        if kind in _HELD_AS:
            allowed += _HELD_AS[kind]
        elif kind is not type(None):
            return ()
    return tuple(allowed)


_HELD_AS: dict[Any, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
    list: (list,),
    tuple: (list,),
    Sequence: (list,),
}


def _lazy_nodes(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yields (dotted path, node) of every node that names a class."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        items = ((key, node._get_node(key)) for key in node)
    elif isinstance(node, ListConfig):
        items = ((index, node._get_node(index)) for index in range(len(node)))
    else:
        return
    for key, item in items:
        if OmegaConf.is_config(item):
            yield from _lazy_nodes(item, f"{path}.{key}" if path else str(key))


def _arguments(node: DictConfig) -> list[str] | None:
    """Returns the argument names of the node's class or function, or None when it takes any keyword."""
    parameters = _parameters(node)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    return [name for name, parameter in parameters.items() if parameter.kind is not parameter.POSITIONAL_ONLY]


def _parameters(node: DictConfig) -> Mapping[str, inspect.Parameter] | None:
    """Returns the parameters of the node's class or function by name, or None when it has no signature."""
    target = node["_target_"]
    if isinstance(target, str):
        try:
            target = locate(target)
        except ImportError as error:
            raise ConfigError(f"_target_ {target!r} cannot be imported: {error}") from error
    if OmegaConf.is_config(target):
        return None
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return None


def _target_name(node: DictConfig) -> str:
    target = node["_target_"]
    return target if isinstance(target, str) else f"{target.__module__}.{target.__qualname__}"


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(map(str, known))}." if 0 < len(known) <= 40 else ""
