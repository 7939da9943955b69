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
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from detectron2.layers import CNNBlockBase, FrozenBatchNorm2d
from detectron2.modeling import FPN, ResNet, SimpleFeaturePyramid
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from densessl.checkpoint.architecture import COUNTER, describe
from densessl.checkpoint.compare import shorten
from densessl.checkpoint.conventions import require_same_conventions
from densessl.checkpoint.locate import resolve_weights_path
from densessl.checkpoint.reading import read_weights
from densessl.checkpoint.recognise import Weights, recognise
from densessl.errors import CheckpointError

# Not weights: a model starts or evaluates without them. The second is ResumableRetinaNet's.
_NOT_WEIGHTS = (COUNTER, "loss_normalizer")
_C4_STAGE = ("roi_heads.res5.", "res5.")
_STATISTICS = ("running_mean", "running_var")


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
        folded: running statistics that stay 0 and 1, since BN is folded into scale and shift in the file.
        labels: {name in the file: why it is no part of the trunk}, of files that are not this project's.
        refused: what the file holds beyond its trunk and its known other parts.
        depths: "ResNet-34, the model's ResNet-18" where the trunks are different ResNets, else "".
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
    folded: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    depths: str = ""

    def table(self) -> str:
        """One row per group of the model and, below, of the file's tensors that were not used."""
        counts: dict[str, Counter] = {}
        for kind in ("loaded", "missing", "wrong_shape"):
            for name in getattr(self, kind):
                counts.setdefault(_group(name), Counter())[kind] += 1
        labels = {
            **self.labels,
            **dict.fromkeys(self.counters_unused, "num_batches_tracked that FrozenBatchNorm does not keep"),
        }
        for name in self.unexpected:
            counts.setdefault(f"(file) {labels.get(name) or _group(name)}", Counter())["unexpected"] += 1
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


def load_initial_weights(
    model: nn.Module, path: str, allow_partial: bool = False, *, require_all: bool = False
) -> TransferReport:
    """Loads weights (nothing else of a training state) and logs one table of what was found.

    A file that holds every tensor of the model under its own name, or that was saved by the same
    architecture, is loaded by equal names; any other gives its trunk.

    Args:
        model: the target, wrapped in DDP or not; unchanged when an error is raised.
        path: see `locate.resolve_weights_path`.
        allow_partial: start even if a part of the trunk finds no value, some shapes differ, or the file
            holds what no rule explains.
        require_all: refuse any missing tensor, as evaluation needs.

    Raises:
        CheckpointError: the file cannot be read safely; its colour order, pixel statistics, stride placement
            or norm are not the model's; its trunk holds NaN or infinite values; a tensor of the trunk finds
            no value of its shape; or the file holds
            tensors without which its trunk computes something else.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    path = resolve_weights_path(path)
    weights = recognise(read_weights(path, mmap=True), path)
    weights.require_finite(path)
    require_same_conventions(weights, model, target_trunks(model), path)
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
                start = f"{_C4_STAGE[0]}{index}."
                trunks[0].update(
                    {n: _C4_STAGE[1] + n.removeprefix(_C4_STAGE[0]) for n in names if n.startswith(start)}
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
    report = TransferReport(path, weights.title, exact, depths=_different_depths(weights, target, trunks))
    if not exact and not trunks:
        raise CheckpointError(
            f"{path} ({weights.title}) does not hold the tensors of {type(model).__name__}, and that model "
            "has no attribute `backbone` to which the trunk could go. Use a checkpoint of the same model."
        )
    values, used, folded = {}, set(), _folded_statistics(model, weights)
    for name, current in target.items():
        source = name if exact else weights.trunk.get(trunk_names.get(name, ""))
        if source is None or source not in weights.tensors:
            report.missing.append(name)
            if name in folded:
                values[name] = current
            continue
        value = weights.tensors[source]
        used.add(source)
        if value.shape != current.shape:
            report.wrong_shape.append(f"{name} {tuple(value.shape)} -> {tuple(current.shape)}")
            continue
        values[name] = value
        report.loaded.append(name)
    report.unexpected = [name for name in weights.tensors if name not in used]
    report.folded = [n for n in report.missing if n in folded]
    report.trunk_missing = [
        n for n in report.missing if n in trunk_names and n not in folded and not n.endswith(_NOT_WEIGHTS)
    ]
    _sort_unused_trunk(report, weights, used, set(trunk_names.values()))
    if not exact:
        _name_the_rest(report, weights)
    return values, report


def _different_depths(
    weights: Weights, target: Mapping[str, torch.Tensor], trunks: Sequence[Mapping[str, str]]
) -> str:
    theirs = weights.resnet()
    ours = describe({generic: target[name] for name, generic in trunks[0].items()}) if trunks else None
    if theirs is None or ours is None:
        return ""
    common = min(len(theirs.blocks), len(ours.blocks))  # a model may end with an earlier stage
    a, b = (replace(r, blocks=r.blocks[:common], statistics=True) for r in (theirs, ours))
    return "" if a == b else f"{theirs}, the model's {ours}"


def _folded_statistics(model: nn.Module, weights: Weights) -> set[str]:
    """Names of the running statistics of frozen norms, when the file folds BN into scale and shift.

    They keep mean 0 and variance 1 - eps, with which a frozen norm is exactly that scale and shift. Left out
    of what is loaded, detectron2 would set the variance to 1 (`FrozenBatchNorm2d._load_from_state_dict`).
    """
    if weights.norm() != "affine":
        return set()
    return {
        f"{prefix}.{leaf}"
        for prefix, module in model.named_modules()
        if isinstance(module, FrozenBatchNorm2d)
        for leaf in _STATISTICS
    }


def _name_the_rest(report: TransferReport, weights: Weights) -> None:
    """Why each tensor outside the trunk was not used; what no rule knows or allows is to be refused."""
    if weights.architecture is None:
        report.labels = {name: rule.label for rule, names in weights.dropped.items() for name in names}
    for what, names in weights.changing.items():
        report.labels.update(dict.fromkeys(names, what))
        report.refused += names
    report.refused += weights.unexplained


def _loads_by_name(
    model: nn.Module, target: Mapping[str, torch.Tensor], trunk_names: Mapping[str, str], weights: Weights
) -> bool:
    def has(name: str) -> bool:
        return name in weights.tensors or name.endswith(_NOT_WEIGHTS)

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
        if generic.endswith(COUNTER):
            report.counters_unused.append(name)
        else:
            report.trunk_unused.append(name)


def _require_complete(report: TransferReport, allow_partial: bool, require_all: bool) -> None:
    missing = report.trunk_missing
    if require_all:
        missing = [n for n in report.missing if not n.endswith(_NOT_WEIGHTS)]
    problems = [
        f"{len(names)} {what}: {shorten(names)}"
        for names, what in (
            (missing, "tensors of the model find no value"),
            (report.wrong_shape, "tensors have another shape (file -> model)"),
            (report.trunk_unused, "trunk tensors of the file have no place in the model"),
            (
                [f"{name} ({report.labels.get(name, 'not known')})" for name in report.refused],
                "tensors of the file that the model does not have may change what the trunk computes",
            ),
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
            f"tensors would load. {f'Its trunk is {report.depths}. ' if report.depths else ''}"
            f"{'; '.join(problems)}. Use a checkpoint of the same depth and kind, or set "
            "train.allow_partial=true to start with what fits."
        )
