"""What may and what may not differ between a checkpoint and the run that resumes from it.

A resumed run must be the same run. Data state, weights, optimiser groups and the parts of the config that
change results are compared; a difference there is refused by name. Worker count, output, logging and the
length of the schedule may change; those differences are listed.
"""

from collections.abc import Mapping
from typing import Any

import torch

# Config keys (dotted prefixes) whose change makes it another run. `train.max_iter` and `optimizer.lr` are not
# here: a longer schedule is a documented use, and the learning rate continues from the checkpoint.
RESULT_KEYS = (
    "model",
    "dataloader.train.mapper",
    "dataloader.train.repeat_threshold",
    "train.seed",
    "train.accumulate",
    "train.amp",
    "train.clip_grad",
)
_MAX_LISTED = 12


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as {dotted key: leaf}. An empty container is a leaf."""
    if isinstance(tree, Mapping) and tree:
        items = tree.items()
    elif isinstance(tree, (list, tuple)) and tree:
        items = enumerate(tree)
    else:
        return {prefix: [] if isinstance(tree, (list, tuple)) else tree}
    flat: dict[str, Any] = {}
    for name, value in items:
        flat.update(flatten(value, f"{prefix}.{name}" if prefix else str(name)))
    return flat


def tree_differences(saved: Any, current: Any, prefix: str = "") -> dict[str, str]:
    """{dotted key: "saved value -> current value"} of everything that is not equal."""
    old, new = flatten(saved, prefix), flatten(current, prefix)
    absent = "(absent)"
    return {
        key: f"{old.get(key, absent)!r} -> {new.get(key, absent)!r}".replace(f"'{absent}'", absent)
        for key in sorted(old.keys() | new.keys())
        if key not in old or key not in new or old[key] != new[key]
    }


def config_differences(saved: Any, current: Any) -> tuple[list[str], list[str]]:
    """Config differences as lines, (those that make it another run, those that are allowed)."""
    refused, allowed = [], []
    for key, change in tree_differences(saved, current).items():
        matters = any(key == prefix or key.startswith(prefix + ".") for prefix in RESULT_KEYS)
        (refused if matters else allowed).append(f"config {key}: {change}")
    return refused, allowed


def data_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Differences of the loader's state. The number of workers cannot change samples and is not compared."""
    changes = tree_differences(saved, current, "data")
    return [f"{key}: {change}" for key, change in changes.items() if key != "data.num_workers"]


def weight_differences(saved: Mapping[str, torch.Tensor], current: Mapping[str, torch.Tensor]) -> list[str]:
    """Missing, unexpected and wrong-shape tensors of a whole model, as lines with counts."""
    missing = [key for key in current if key not in saved]
    unexpected = [key for key in saved if key not in current]
    shapes = [
        f"{key} {tuple(saved[key].shape)} -> {tuple(current[key].shape)}"
        for key in current
        if key in saved and saved[key].shape != current[key].shape
    ]
    lines = [
        f"model: {len(names)} {kind}: {shorten(names)}"
        for kind, names in (
            ("tensors missing in the checkpoint", missing),
            ("tensors that the model does not have", unexpected),
            ("tensors of another shape", shapes),
        )
        if names
    ]
    if lines:
        agreeing = len(current) - len(missing) - len(shapes)
        lines.append(f"model: {agreeing} of {len(current)} tensors agree")
    return lines


def optimizer_differences(
    saved: Mapping[str, Any], current: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Differences of two optimiser state dicts: (refused, allowed), as lines.

    Number of groups, parameters per group and the set of hyper-parameters must agree. Other values of
    hyper-parameters are allowed and said: the saved ones continue.
    """
    old, new = saved["param_groups"], current["param_groups"]
    if len(old) != len(new):
        return [f"optimizer: {len(old)} -> {len(new)} parameter groups"], []
    refused, allowed = [], []
    for index, (before, after) in enumerate(zip(old, new)):
        where = f"optimizer.param_groups[{index}]"
        if len(before["params"]) != len(after["params"]):
            refused.append(f"{where}: {len(before['params'])} -> {len(after['params'])} parameters")
        # "initial_lr" is written by schedulers at their start, so only a started run has it.
        names = (before.keys() | after.keys()) - {"params", "initial_lr"}
        for name in sorted(names):
            if (name in before) != (name in after):
                refused.append(f"{where}: hyper-parameter {name!r} only in one of the two optimisers")
        base_before, base_after = (g.get("initial_lr", g.get("lr")) for g in (before, after))
        if base_before != base_after:
            allowed.append(
                f"{where}: base lr {base_before} in the checkpoint, {base_after} in the config; "
                "the checkpoint's continues"
            )
    return refused, allowed


def shorten(names: list[str], most: int = _MAX_LISTED) -> str:
    """The first names of a list, and how many follow."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
