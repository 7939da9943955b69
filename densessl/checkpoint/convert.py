"""Converts the weights of one layout into another, or says why that would lose something.

Explicit tables only (`layouts.py`). A conversion is refused when a tensor of the file is explained by no
rule, when one without which the trunk computes another function has no place in the target, and when the
trunk is not a whole ResNet. Reading a full DenseCL training file by suffixes (`matching_heuristics` of
detectron2, `c2_model_loading.py`) finds res2-res4 of a C4 detector only; here such a file gives its trunk
whole.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

import densessl
from densessl.checkpoint.architecture import COUNTER, defects
from densessl.checkpoint.compare import shorten
from densessl.checkpoint.layouts import Layout
from densessl.checkpoint.names import rename_back
from densessl.checkpoint.recognise import CONVENTIONS, WRAPPER, Weights, changes_function
from densessl.checkpoint.tables import Drop
from densessl.errors import CheckpointError

_LEFT = (
    ("classifier", "linear."),
    ("decoder", "fpn_lateral"),
)


@dataclass(frozen=True)
class Conversion:
    """What goes where.

    Args:
        source: the file, recognised.
        target: the layout to write.
        values: {name in the new file: tensor}, in the order of the source.
        origin: {name in the new file: name in the source}.
        dropped: {rule: names in the source}.
        metadata: what the new file says about the use of its weights; plain values.
    """

    source: Weights
    target: Layout
    values: dict[str, torch.Tensor]
    origin: dict[str, str]
    dropped: dict[Drop, list[str]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


def plan_conversion(source: Weights, target: Layout, path: str) -> Conversion:
    """Decides what every tensor of a file becomes.

    Args:
        source: of `recognise`.
        target: layout to write. The layout of the file itself keeps every tensor.
        path: of the source, for messages.

    Raises:
        CheckpointError: something would be lost that is not explained, or the target cannot say how the
            weights take their pixels.
    """
    metadata = describe_use(source, target, path)
    if source.layout.name == target.name:
        _require_whole(source, path)
        names = {name: name for name in source.tensors}
        return Conversion(source, target, dict(source.tensors), names, metadata=metadata)
    _require_explained(source, path)
    _require_whole(source, path)
    _require_expressible(source, target, path)
    _require_equal_copies(source, path)
    origin, left = _place_trunk(source, target, path)
    _require_same_kind(origin, target, source, path)
    values = {name: source.tensors[theirs] for name, theirs in origin.items()}
    return Conversion(source, target, values, origin, {**source.dropped, **left}, metadata)


def describe_use(source: Weights, target: Layout, path: str) -> dict[str, Any]:
    """What a file says about itself: origin, network, and how the weights take their pixels."""
    resnet = source.resnet()
    conventions = {key: (source.conventions or {}).get(key) for key in CONVENTIONS}
    return {
        "format": "densessl-weights",
        "version": densessl.__version__,
        "layout": target.name,
        "source": os.path.basename(path),
        "source_layout": source.layout.name,
        "network": None if resnet is None else str(resnet),
        **conventions,
        "norm": source.norm(),
    }


def _require_explained(source: Weights, path: str) -> None:
    if source.changing:
        parts = [f"{what} ({shorten(names)})" for what, names in source.changing.items()]
        raise CheckpointError(
            f"{path} ({source.title}) computes another function than a plain trunk: {'; '.join(parts)}. "
            "Dropping these tensors would change it silently, so nothing was written. Use the library that "
            "the weights come from (TimmBackbone takes any timm model)."
        )
    if source.unexplained:
        raise CheckpointError(
            f"{path} ({source.title}): {len(source.unexplained)} tensors are explained by no rule of the "
            f"layout {source.layout.name}: {shorten(source.unexplained)}. Nothing was written. Name the "
            "layout with --from if another fits; otherwise remove these tensors from the file, if you know "
            "that they do not belong to the trunk."
        )


def _require_whole(source: Weights, path: str) -> None:
    resnet = source.resnet()
    if resnet is None:
        return
    problems = [
        f"{len(names)} tensors {what}: {shorten(names)}"
        for what, names in defects(resnet, source.trunk_tensors()).items()
        if names
    ]
    if problems:
        raise CheckpointError(f"{path} ({source.title}) is no whole {resnet}: {'; '.join(problems)}.")


def _require_expressible(source: Weights, target: Layout, path: str) -> None:
    """Refuses a target whose models cannot compute what the file computes."""
    conventions, norm = source.conventions or {}, source.norm()
    resnet = source.resnet()
    strides = resnet is not None and resnet.bottleneck and conventions.get("stride_in_1x1")
    if strides and target.library in ("torchvision", "timm") and target.name != "openmmlab":
        raise CheckpointError(
            f"{path} has its stride in the 1x1 convolutions (stride_in_1x1=True); {target.title} models "
            "stride in the 3x3 ones and would compute something else. Convert to detectron2, hf-resnet or "
            "openmmlab."
        )
    if norm == "affine" and target.library is not None:
        raise CheckpointError(
            f"{path} holds no running statistics (BN is folded into scale and shift); {target.title} models "
            "need them. Convert to a detectron2 layout, for a model with FrozenBN."
        )
    if target.name.startswith("caffe2"):
        _require_default_conventions(source, target, path)


def _require_default_conventions(source: Weights, target: Layout, path: str) -> None:
    resnet = source.resnet()
    grouped = resnet is not None and resnet.groups > 1 and target.grouped_conventions
    usual = (grouped or target.conventions) or {}
    stated = source.conventions or {}
    differing = [key for key in CONVENTIONS if key in usual and stated.get(key) not in (usual[key],)]
    if differing:
        raise CheckpointError(
            f"{path}: a {target.name} file cannot say how its weights take their pixels, and these differ "
            f"from what is usual there: {', '.join(f'{key}={stated.get(key)}' for key in differing)}. "
            "Convert to detectron2."
        )


def _require_equal_copies(source: Weights, path: str) -> None:
    for rule, names in source.dropped.items():
        if rule.copy_of is None:
            continue
        here, there = rule.copy_of
        for name in names:
            other = source.tensors.get(name.replace(here, there, 1))
            if other is None or not torch.equal(other, source.tensors[name]):
                raise CheckpointError(
                    f"{path}: {name} differs from {name.replace(here, there, 1)}, though {source.title} "
                    "stores the same trunk under both. --from openselfsup-query takes the first."
                )


def _place_trunk(source: Weights, target: Layout, path: str) -> tuple[dict[str, str], dict[Drop, list[str]]]:
    origin: dict[str, str] = {}
    left: dict[Drop, list[str]] = {}
    homeless: list[str] = []
    counters = rename_back(f"stem.conv1.norm.{COUNTER}", target.names) is not None
    for ours, theirs in source.trunk.items():
        name = rename_back(ours, target.names)
        label = next((label for label, start in _LEFT if ours.startswith(start)), None)
        if name is not None:
            origin[target.wrapper + name] = theirs
        elif label is not None:
            left.setdefault(Drop(label, "", f"no place in {target.name} files"), []).append(theirs)
        elif ours.endswith(COUNTER) and not counters:
            reason = f"{target.name} files have none; evaluation does not use them"
            left.setdefault(Drop("batch counters of the norms", "", reason), []).append(theirs)
        else:
            homeless.append(theirs)
    if homeless:
        what = changes_function(homeless[0].removeprefix(WRAPPER)) or "part of the trunk"
        raise CheckpointError(
            f"{path} ({source.title}): {len(homeless)} tensors have no name in a {target.name} file: "
            f"{shorten(homeless)} ({what}). Nothing was written; choose another --to."
        )
    if not origin:
        raise CheckpointError(f"{path} ({source.title}) holds no trunk that could be written.")
    return origin, left


def _require_same_kind(origin: Mapping[str, str], target: Layout, source: Weights, path: str) -> None:
    """Refuses to write one kind of network under the names of another, e.g. a ResNet as a ViTDet."""
    first = target.wrapper + target.marks[0]
    if first not in origin:
        kind = source.resnet() or "no ResNet"
        raise CheckpointError(
            f"{path} ({source.title}) is {kind}; a {target.name} file ({target.title}) has a {first}, which "
            "it has not. Nothing was written; choose another --to."
        )


# ------------------------------------------------------------------ the report


def report(conversion: Conversion) -> str:
    """What was kept, renamed and dropped, each group with its count, and what the target config must have."""
    source, origin = conversion.source, conversion.origin
    renamed = [name for name, theirs in origin.items() if name != theirs]
    network = conversion.metadata["network"]
    lines = [
        f"{source.title} ({source.layout.name}){f', {network}' if network else ''}: "
        f"{len(source.tensors)} tensors -> {conversion.target.title} ({conversion.target.name})",
        f"kept     {len(origin):5}  ({len(origin) - len(renamed)} under their names, {len(renamed)} renamed)",
        *_groups(conversion),
    ]
    for rule, names in conversion.dropped.items():
        lines.append(f"dropped  {len(names):5}  {rule.label}: {shorten(names, 2)} ({rule.reason})")
    if source.beside:
        lines.append(f"not weights, left out: {', '.join(source.beside)}")
    if conversion.target.writes and source.layout.name != conversion.target.name:
        lines.append(f"A {conversion.target.name} file made of a trunk holds {conversion.target.writes}.")
    return "\n".join([*lines, *requirements(conversion.metadata, source.stated)])


def _groups(conversion: Conversion) -> list[str]:
    """One line per stage: count, and its first name before and after."""
    groups: dict[str, list[str]] = {}
    ours = {theirs: name for name, theirs in conversion.source.trunk.items()}
    for name, theirs in conversion.origin.items():
        label = ours.get(theirs, "other parts").split(".")[0]
        groups.setdefault(label, []).append(name)
    return [
        f"  {label:12} {len(names):5}  {conversion.origin[names[0]]} -> {names[0]}"
        for label, names in groups.items()
    ]


def requirements(metadata: Mapping[str, Any], stated: str) -> list[str]:
    """What a config that uses the weights must have, in the words of detectron2's two kinds of config."""
    norms = {
        "BN": 'a BatchNorm: "BN", "SyncBN", or "FrozenBN"',
        "GN": '"GN"',
        "affine": '"FrozenBN" only: BN is folded into scale and shift',
    }
    rows = (
        ("input_format", "model.input_format", "INPUT.FORMAT"),
        ("pixel_mean", "model.pixel_mean", "MODEL.PIXEL_MEAN"),
        ("pixel_std", "model.pixel_std", "MODEL.PIXEL_STD"),
        ("stride_in_1x1", "stages.stride_in_1x1", "MODEL.RESNETS.STRIDE_IN_1X1"),
        ("norm", "stem.norm, stages.norm", "MODEL.RESNETS.NORM"),
    )
    lines = [f"The target config must have ({stated or 'the file does not say; find out before training'}):"]
    for key, lazy, yacs in rows:
        value = metadata.get(key)
        if key == "norm":
            value = norms.get(value, value)
        lines.append(f"  {lazy:24} = {'not stated' if value is None else value}  ({yacs})")
    return lines
