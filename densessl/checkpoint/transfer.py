"""Loads weights into a model of another task: pretrained trunk into a detector, checkpoint into its model.

Explicit rules only. Suffix matching (`matching_heuristics` of detectron2, `c2_model_loading.py`) loads
res2-res4 of a C4 detector from a full DenseCL training file and leaves stem and res5 random with a log line;
here a trunk is found whole, or the start is refused.

    target                      where its trunk stands
    feature pyramid detector    backbone.bottom_up.*
    C4 detector                 backbone.*, with res5.<block> in roi_heads.res5.<block>
    ViTDet                      backbone.net.*
    pretraining, others         backbone.*, and the same tensors in momentum_backbone.* where it exists
    bare ResNet                 *
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.layers import CNNBlockBase
from detectron2.modeling import FPN, ResNet, SimpleFeaturePyramid
from detectron2.utils.file_io import PathManager
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from densessl.checkpoint.compare import shorten
from densessl.checkpoint.files import newest_valid
from densessl.checkpoint.layouts import C4_STAGE, Weights, recognise
from densessl.checkpoint.reading import read_weights
from densessl.checkpoint.state import input_conventions
from densessl.errors import CheckpointError

# Not weights: a model starts or evaluates without them. The second is ResumableRetinaNet's.
_COUNTER = ("num_batches_tracked", "loss_normalizer")
_PIXEL_TOLERANCE = 0.1  # in 0-255; papers round the same statistics differently


@dataclass
class TransferReport:
    """What went where; `loaded`, `missing`, `wrong_shape` are names of the model, `unexpected` of the file.

    Args:
        path: the file.
        layout: whose file it is.
        exact: whether all tensors were matched by equal names (else only the trunk, by rule).
        loaded: tensors that got a value.
        missing: tensors that keep their initial value.
        wrong_shape: "name file shape -> model shape".
        unexpected: tensors of the file that were not used.
        trunk_missing: the part of `missing` that belongs to the trunk, batch counters excepted.
        trunk_unused: trunk tensors of the file for which a stage of the model has no place.
        counters_unused: `num_batches_tracked` of the file's trunk that a frozen norm does not keep.
    """

    path: str
    layout: str
    exact: bool
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    trunk_missing: list[str] = field(default_factory=list)
    trunk_unused: list[str] = field(default_factory=list)
    counters_unused: list[str] = field(default_factory=list)

    def table(self) -> str:
        """One row per group of the model and, below, of the file's tensors that were not used."""
        counts: dict[str, Counter] = {}
        for kind in ("loaded", "missing", "wrong_shape"):
            for name in getattr(self, kind):
                counts.setdefault(_group(name), Counter())[kind] += 1
        ignored = set(self.counters_unused)
        for name in self.unexpected:
            label = (
                "num_batches_tracked that FrozenBatchNorm does not keep" if name in ignored else _group(name)
            )
            counts.setdefault(f"(file) {label}", Counter())["unexpected"] += 1
        width = max(map(len, counts), default=5)
        lines = [f"{'group':{width}}  loaded  missing  wrong shape  not used"]
        total = Counter()
        for group, count in counts.items():
            total.update(count)
            lines.append(_row(group, count, width))
        lines.append(_row("total", total, width))
        how = "equal names" if self.exact else "trunk rule"
        return f"Weights from {self.path} ({self.layout}; {how}):\n" + "\n".join(lines)


def _row(group: str, count: Mapping[str, int], width: int) -> str:
    cells = (count["loaded"], count["missing"], count["wrong_shape"], count["unexpected"])
    return f"{group:{width}}  {cells[0]:6}  {cells[1]:7}  {cells[2]:11}  {cells[3]:8}"


def _group(name: str) -> str:
    """Row of the table for a tensor name: stages keep their number, other counted modules share a row."""
    stage = re.match(r"(?:[\w.]+\.)?(?:stem|res\d)(?=\.)", name)
    if stage:
        return stage.group(0)
    parts = [re.sub(r"\d+$", "", part) for part in name.split(".")]
    return ".".join(parts[:2]) if len(parts) > 2 else parts[0]


def resolve_weights_path(path: str) -> str:
    """Local file of `train.init_checkpoint`: a file, a run directory (its newest valid checkpoint), or a URL.

    Raises:
        CheckpointError: nothing is there.
    """
    if "://" in path:
        try:
            return PathManager.get_local_path(path)
        except OSError as error:  # urllib's errors, and a cache that cannot be written
            raise CheckpointError(
                f"{path} cannot be fetched: {error}. Check the address and the network, or download the file "
                "elsewhere and name the copy in train.init_checkpoint."
            ) from error
    if os.path.isdir(path):
        newest, _ = newest_valid(path)
        if not newest:
            raise CheckpointError(f"The directory {path} holds no checkpoint; name a weight file.")
        return newest
    if not os.path.isfile(path):
        raise CheckpointError(f"Checkpoint {path} does not exist; check train.init_checkpoint.")
    return path


def load_initial_weights(
    model: nn.Module, path: str, allow_partial: bool = False, *, require_all: bool = False
) -> TransferReport:
    """Loads weights (nothing else of a training state) and logs one table of what was found.

    A file that holds every tensor of the model under its own name, or that was saved by the same
    architecture, is loaded by equal names; any other gives its trunk.

    Args:
        model: the target, wrapped in DDP or not; unchanged when an error is raised.
        path: see `resolve_weights_path`.
        allow_partial: start even if a part of the trunk finds no value or some shapes differ.
        require_all: refuse any missing tensor, as evaluation needs.

    Raises:
        CheckpointError: the file cannot be read safely, its colour order, pixel statistics or stride
            placement are not the model's, or a tensor of the trunk finds no value of its shape.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    path = resolve_weights_path(path)
    weights = recognise(read_weights(path), path)
    _require_same_conventions(weights.conventions, input_conventions(model), path)
    values, report = plan_transfer(model, weights, path)
    logging.getLogger(__name__).info("%s", report.table())
    _require_complete(report, allow_partial, require_all)
    model.load_state_dict(values, strict=False)
    return report


def target_trunks(model: nn.Module) -> list[dict[str, str]]:
    """One {name in the model: detectron2 trunk name} per trunk of the model; see the table at the top."""
    names = list(model.state_dict())
    if isinstance(model, ResNet):
        return [{name: name for name in names}]
    prefixes = []
    for attribute in ("backbone", "momentum_backbone"):
        module = getattr(model, attribute, None)
        if isinstance(module, FPN):
            prefixes.append(f"{attribute}.bottom_up.")
        elif isinstance(module, SimpleFeaturePyramid):
            prefixes.append(f"{attribute}.net.")
        elif isinstance(module, nn.Module):
            prefixes.append(f"{attribute}.")
    trunks = [{n: n.removeprefix(p) for n in names if n.startswith(p)} for p in prefixes]
    stage = getattr(getattr(model, "roi_heads", None), "res5", None)
    if trunks and isinstance(stage, nn.Module):
        # Blocks only: a norm that the VOC recipe adds behind the stage belongs to the heads.
        for index, block in stage.named_children():
            if isinstance(block, CNNBlockBase):
                start = f"{C4_STAGE[0]}{index}."
                trunks[0].update(
                    {n: C4_STAGE[1] + n.removeprefix(C4_STAGE[0]) for n in names if n.startswith(start)}
                )
    return trunks


def plan_transfer(
    model: nn.Module, weights: Weights, path: str = ""
) -> tuple[dict[str, torch.Tensor], TransferReport]:
    """Decides which tensor of the file goes where, without changing the model.

    Returns:
        ({name in the model: value}, report). Values have the model's shapes.
    """
    target = model.state_dict()
    trunks = target_trunks(model)
    trunk_names = {name: generic for trunk in trunks for name, generic in trunk.items()}
    exact = _loads_by_name(model, target, trunk_names, weights)
    report = TransferReport(path, weights.layout, exact)
    if not exact and not trunks:
        raise CheckpointError(
            f"{path} ({weights.layout}) does not hold the tensors of {type(model).__name__}, and that model "
            "has no attribute `backbone` to which the trunk could go. Use a checkpoint of the same model."
        )
    values, used = {}, set()
    for name, current in target.items():
        source = name if exact else weights.trunk.get(trunk_names.get(name, ""))
        if source is None or source not in weights.tensors:
            report.missing.append(name)
            continue
        value = weights.tensors[source]
        used.add(source)
        if value.shape != current.shape:
            report.wrong_shape.append(f"{name} {tuple(value.shape)} -> {tuple(current.shape)}")
            continue
        values[name] = value
        report.loaded.append(name)
    report.unexpected = [name for name in weights.tensors if name not in used]
    report.trunk_missing = [n for n in report.missing if n in trunk_names and not n.endswith(_COUNTER)]
    _sort_unused_trunk(report, weights, used, set(trunk_names.values()))
    return values, report


def _loads_by_name(
    model: nn.Module, target: Mapping[str, torch.Tensor], trunk_names: Mapping[str, str], weights: Weights
) -> bool:
    def has(name: str) -> bool:
        return name in weights.tensors or name.endswith(_COUNTER)

    if weights.architecture == type(model).__name__ and all(map(has, trunk_names)):
        return True
    # A model whose tensors are all there, e.g. MoCo in a DenseCL file.
    return all(
        has(n) and (n not in weights.tensors or weights.tensors[n].shape == v.shape)
        for n, v in target.items()
    )


def _sort_unused_trunk(report: TransferReport, weights: Weights, used: set[str], wanted: set[str]) -> None:
    """Splits the file's unused trunk tensors: batch counters, blocks too many; a stage that the model does
    not have at all (res5 in a model that ends with res4) is neither."""
    stages = {name.split(".")[0] for name in wanted}
    for generic, name in weights.trunk.items():
        if name in used or generic.split(".")[0] not in stages:
            continue
        if generic.endswith(_COUNTER):
            report.counters_unused.append(name)
        else:
            report.trunk_unused.append(name)


def _require_complete(report: TransferReport, allow_partial: bool, require_all: bool) -> None:
    missing = [n for n in report.missing if not n.endswith(_COUNTER)] if require_all else report.trunk_missing
    problems = [
        f"{len(names)} {what}: {shorten(names)}"
        for names, what in (
            (missing, "tensors of the model find no value"),
            (report.wrong_shape, "tensors have another shape (file -> model)"),
            (report.trunk_unused, "trunk tensors of the file have no place in the model"),
        )
        if names
    ]
    if not report.loaded:
        raise CheckpointError(
            f"No tensor of {report.path} ({report.layout}) fits the model. {'; '.join(problems)}."
        )
    if problems and not allow_partial:
        total = len(report.loaded) + len(report.missing) + len(report.wrong_shape)
        raise CheckpointError(
            f"{report.path} ({report.layout}) does not fit the model: {len(report.loaded)} of {total} "
            f"tensors would load. {'; '.join(problems)}. Use a checkpoint of the same depth and kind, or set "
            "train.allow_partial=true to start with what fits."
        )


def _require_same_conventions(saved: Mapping[str, Any] | None, current: Mapping[str, Any], path: str) -> None:
    if saved is None:
        logging.getLogger(__name__).warning(
            "%s does not say its colour order and pixel statistics; the model feeds it %s, mean %s, std %s",
            path,
            *(current[key] for key in ("input_format", "pixel_mean", "pixel_std")),
        )
        return
    differing = [
        f"{key}: {saved[key]} in the file, {value} in the model"
        for key, value in current.items()
        if value is not None and saved.get(key) is not None and not _agree(saved[key], value)
    ]
    if differing:
        raise CheckpointError(
            f"The weights of {path} expect other input than the model gives: {'; '.join(differing)}. "
            "Set the model's values to the file's."
        )


def _agree(saved: Any, current: Any) -> bool:
    if isinstance(current, list):
        return len(saved) == len(current) and all(
            abs(a - b) <= _PIXEL_TOLERANCE for a, b in zip(saved, current)
        )
    return saved == current
