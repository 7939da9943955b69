"""Parameter groups for the optimiser, by patterns on the full parameter name."""

import re
from collections.abc import Sequence
from typing import Any

from detectron2.solver.build import reduce_param_groups
from torch import nn

from densessl.errors import ConfigError

NORM_TYPES = (
    nn.modules.batchnorm._NormBase,  # every batch and instance norm, SyncBatchNorm and detectron2's included
    nn.GroupNorm,
    nn.LayerNorm,
)


def get_param_groups(
    model: nn.Module,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float | None = None,
    overrides: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Groups the trainable parameters of `model` by their hyper-parameters.

    Args:
        model: its parameters with `requires_grad` are grouped; each appears once.
        base_lr: learning rate.
        weight_decay: decay of all parameters; published MoCo recipes decay biases and norms too.
        weight_decay_norm: decay of the parameters of normalisation layers, when it differs.
        overrides: each {"pattern": regex searched in the full name, and any of "lr_factor" (multiplies
            base_lr), "weight_decay", "fixed_lr" (True: schedules leave this group's rate alone)};
            later ones win.

    Returns:
        torch optimiser groups with "lr", "weight_decay", "fixed_lr" and "param_names" (full names, in the
        order of "params").

    Raises:
        ConfigError: a pattern that matches no trainable parameter, or an unknown key.
    """
    groups, used = [], set()
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for short_name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            name = f"{module_name}.{short_name}" if module_name else short_name
            group = {"lr": base_lr, "weight_decay": weight_decay, "fixed_lr": False}
            if weight_decay_norm is not None and isinstance(module, NORM_TYPES):
                group["weight_decay"] = weight_decay_norm
            for index, override in enumerate(overrides):
                if re.search(override["pattern"], name):
                    used.add(index)
                    _apply(group, override, base_lr)
            groups.append({"params": [parameter], "param_names": [name], **group})
    for index, override in enumerate(overrides):
        if index not in used:
            raise ConfigError(
                f"optimizer.params.overrides: pattern {override['pattern']!r} matches no parameter."
            )
    return reduce_param_groups(groups)


def _apply(group: dict[str, Any], override: dict[str, Any], base_lr: float) -> None:
    for key, value in override.items():
        if key == "lr_factor":
            group["lr"] = base_lr * value
        elif key in ("weight_decay", "fixed_lr"):
            group[key] = value
        elif key != "pattern":
            raise ConfigError(
                f"optimizer.params.overrides: unknown key {key!r}; "
                "use pattern, lr_factor, weight_decay, fixed_lr."
            )
