"""Recognises whose file a set of weights comes from: layout, trunk, leftovers and conventions."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from densessl.checkpoint.architecture import Architecture, describe
from densessl.checkpoint.compare import shorten
from densessl.checkpoint.layouts import BY_NAME, LAYOUTS, Layout
from densessl.checkpoint.names import rename
from densessl.checkpoint.state import FORMAT
from densessl.checkpoint.tables import (
    CHANGES_FUNCTION,
    MSRA_CONVENTIONS,
    TORCHVISION_AUTHORS,
    TORCHVISION_CONVENTIONS,
    Drop,
)
from densessl.errors import CheckpointError

WRAPPER = "module."
METADATA = "densessl"
"""Key under which converted files say how their weights are used."""
CONVENTIONS = ("input_format", "pixel_mean", "pixel_std", "stride_in_1x1", "norm")
_OURS = ("detectron2-fpn", "vitdet", "detectron2-c4", "densessl", "detectron2")
_DETECTRON2 = ("detectron2-picie", *_OURS)
_VISSL = ("classy_state_dict", "base_model", "model", "trunk")


@dataclass(frozen=True)
class Weights:
    """The content of a weight file, recognised.

    Args:
        layout: whose file it is.
        title: the same in words.
        tensors: every tensor under its name in the file.
        trunk: {name here ("res2.0.conv1.weight"): name in the file}.
        conventions: see `state.input_conventions`, and `norm`; None when the file does not say.
        stated: where the conventions come from, in words.
        architecture: class name of the model that was saved, None for foreign files.
        dropped: {drop rule: names in the file}.
        unexplained: names of the file that no rule knows.
        changing: {what it is: names} of tensors without which the trunk is another function.
        beside: top-level entries of the file that are not weights.
    """

    layout: Layout
    title: str
    tensors: dict[str, torch.Tensor]
    trunk: dict[str, str]
    conventions: Mapping[str, Any] | None = None
    stated: str = ""
    architecture: str | None = None
    dropped: dict[Drop, list[str]] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)
    changing: dict[str, list[str]] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)

    def trunk_tensors(self) -> dict[str, torch.Tensor]:
        """{name here: tensor} of the trunk."""
        return {ours: self.tensors[theirs] for ours, theirs in self.trunk.items()}

    def resnet(self) -> Architecture | None:
        """The ResNet that the trunk is, None for another kind."""
        return describe(self.trunk_tensors())

    def require_finite(self, path: str) -> None:
        """Refuses a trunk with NaN or infinite values: its pretraining diverged, or the file is damaged."""
        broken = [
            name
            for name in self.trunk.values()
            if self.tensors[name].is_floating_point() and not self.tensors[name].isfinite().all()
        ]
        if broken:
            raise CheckpointError(
                f"{path} ({self.title}): {len(broken)} tensors of the trunk hold NaN or infinite values: "
                f"{shorten(broken)}. The training that wrote it diverged, or the file is damaged; use an "
                "earlier or another checkpoint."
            )

    def norm(self) -> str | None:
        """ "BN", "GN" or "affine" (BN folded into scale and shift); None for a trunk that is no ResNet."""
        resnet = self.resnet()
        if resnet is None:
            return None
        return "BN" if resnet.statistics else (self.conventions or {}).get("norm") or "GN"


def recognise(content: Mapping[str, Any], path: str, layout: str | None = None) -> Weights:
    """Finds layout, trunk and leftovers in what `reading.read_weights` returned.

    Args:
        content: the file's top level.
        path: for messages, and for a `config.json` beside the file.
        layout: name of the layout to take; None to find it.

    Raises:
        CheckpointError: no known layout fits, or not the one asked for; names what the file holds.
    """
    state, beside = _find_state(content, path)
    tensors = _as_tensors(state, path)
    meta = _own_metadata(content, state)
    wrapped = bool(tensors) and all(name.startswith(WRAPPER) for name in tensors)
    plain = {name.removeprefix(WRAPPER) if wrapped else name: name for name in tensors}
    author = content.get("__author__")
    if layout is not None:
        found = BY_NAME[layout]
        _require_marks(found, plain, path)
    elif meta is not None and meta.get("format") == FORMAT:
        found = next(BY_NAME[name] for name in _OURS if _has_prefix(BY_NAME[name], plain))
    else:
        found = next((entry for entry in LAYOUTS if _fits(entry, plain, content, author)), None)
    if found is None:
        raise CheckpointError(
            f"{path}: the names of its {len(tensors)} tensors ({', '.join(list(tensors)[:3])}, ...) belong "
            f"to no layout known here: {', '.join(entry.name for entry in LAYOUTS)}."
            f"{_other_function(plain) or ' Rename them to one of these.'}"
        )
    ours = meta is not None and meta.get("format") == FORMAT
    architecture = meta.get("architecture") if ours else None
    weights = Weights(found, found.title, tensors, beside=beside, **_sort_names(found, plain, architecture))
    title = found.title
    if ours:
        title = f"{architecture or 'converted'} checkpoint of this project"
    elif author:
        title = f"{found.title}, author {author}"
    conventions, stated = _conventions(weights, content, meta, author, path)
    return replace(weights, title=title, architecture=architecture, conventions=conventions, stated=stated)


def _find_state(content: Mapping[str, Any], path: str) -> tuple[Mapping[str, Any], list[str]]:
    """The state dict inside a file, under a known key or the file itself; and the other entries."""
    if "classy_state_dict" in content:
        return _descend(content, _VISSL, path)
    for key in ("model", "state_dict", "model_state_dict", "blobs"):
        if isinstance(content.get(key), Mapping):
            return content[key], [str(name) for name in content if name not in (key, METADATA, "metadata")]
    if any(isinstance(value, torch.Tensor) or hasattr(value, "__array__") for value in content.values()):
        return content, []
    raise CheckpointError(
        f"{path} holds no weights that can be found; its top level is "
        f"{', '.join(map(str, list(content)[:8])) or 'empty'}. "
        "Expected a state dict, or one under model, state_dict or model_state_dict."
    )


def _descend(content: Mapping, keys: tuple[str, ...], path: str) -> tuple[Mapping, list[str]]:
    beside, where = [], ""
    for key in keys:
        if not isinstance(content.get(key), Mapping):
            raise CheckpointError(
                f"{path}: {where or 'its top level'} holds no {key}, as a VISSL file does; found "
                f"{', '.join(map(str, list(content)[:8]))}. Save the trunk's state dict under state_dict."
            )
        beside += [f"{where}{name}" for name in content if name not in (key, METADATA)]
        content, where = content[key], f"{where}{key}."
    return content, beside


def _as_tensors(state: Mapping[str, Any], path: str) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, value in state.items():
        try:
            tensors[str(name)] = value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: the entry {name} of its weights is a {type(value).__name__}, not a tensor; "
                "save a state_dict of tensors."
            ) from error
    return tensors


def _own_metadata(content: Mapping[str, Any], state: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What this project wrote into the file about the use of its weights."""
    meta = content.get("meta")
    if isinstance(meta, Mapping) and meta.get("format") == FORMAT:
        return meta
    stored = content.get(METADATA)
    if stored is None and isinstance(content.get("metadata"), Mapping):  # safetensors keep strings
        text = content["metadata"].get(METADATA)
        try:
            stored = None if text is None else json.loads(text)
        except ValueError:
            return None
    if stored is None:  # a bare state dict carries it as an attribute, as torch's own carry `_metadata`
        stored = getattr(state, METADATA, None)
    return stored if isinstance(stored, Mapping) else None


def _fits(layout: Layout, names: Mapping[str, str], content: Mapping[str, Any], author: str | None) -> bool:
    if not set(layout.marks) <= names.keys() or names.keys() & set(layout.absent):
        return False
    if layout.name in _DETECTRON2 and author == "Caffe2":  # its names would be renamed once more
        return False
    for entry in layout.beside:
        key, _, value = entry.partition("=")
        if key not in content or (value and content[key] != value):
            return False
    return True


def _require_marks(layout: Layout, names: Mapping[str, str], path: str) -> None:
    missing = [name for name in layout.marks if name not in names]
    if missing:
        raise CheckpointError(
            f"{path} is no {layout.title} file (--from {layout.name}): it has no {missing[0]}; its "
            f"{len(names)} tensors are {', '.join(list(names)[:3])}, ..."
            f"{_other_function(names) or ' Leave --from out to have the layout found.'}"
        )


def _has_prefix(layout: Layout, names: Mapping[str, str]) -> bool:
    """Whether one of our checkpoints has its trunk where the layout has it."""
    if layout.name == "detectron2-c4":
        return set(layout.marks) <= names.keys()
    prefix = layout.names[-1][0].removesuffix("{trunk}")
    return any(name.startswith(prefix) for name in names)


def _sort_names(layout: Layout, plain: Mapping[str, str], architecture: str | None) -> dict[str, Any]:
    """Every tensor into exactly one of: trunk, dropped, changing, unexplained."""
    drops = layout.drops
    if architecture is not None:  # our own file: its model is known
        rest = r"(?!backbone\.|roi_heads\.res5\.).+"
        drops = (*drops, Drop(f"other parts of {architecture}", rest, "not part of the trunk"))
    trunk: dict[str, str] = {}
    dropped: dict[Drop, list[str]] = {}
    unexplained: list[str] = []
    changing: dict[str, list[str]] = {}
    for name, original in plain.items():
        ours = rename(name, layout.names)
        if ours is not None:
            trunk[ours] = original
            continue
        rule = next((drop for drop in drops if re.fullmatch(drop.pattern, name)), None)
        what = changes_function(name)
        if rule is not None:
            dropped.setdefault(rule, []).append(original)
        elif what is not None:
            changing.setdefault(what, []).append(original)
        else:
            unexplained.append(original)
    return {"trunk": trunk, "dropped": dropped, "unexplained": unexplained, "changing": changing}


def _other_function(names: Iterable[str]) -> str:
    """Sentences about the tensors by which a file is another network than a plain trunk; "" without any."""
    groups: dict[str, list[str]] = {}
    for name in names:
        what = changes_function(name)
        if what is not None:
            groups.setdefault(what, []).append(name)
    if not groups:
        return ""
    parts = "; ".join(f"{what} ({shorten(found, 3)})" for what, found in groups.items())
    return f" It computes another function than a plain trunk: {parts}. Use the library that it comes from."


def changes_function(name: str) -> str | None:
    """What a tensor is without which the rest computes another function; None for all others."""
    return next((what for what, pattern in CHANGES_FUNCTION if re.search(pattern, f".{name}")), None)


# ------------------------------------------------------------------ conventions


def _conventions(
    weights: Weights, content: Mapping, meta: Mapping | None, author: str | None, path: str
) -> tuple[Mapping[str, Any] | None, str]:
    """(conventions, where they come from): what the file says before what its layout usually means."""
    if meta is not None:
        return {key: meta.get(key) for key in CONVENTIONS}, "stated in the file"
    layout = weights.layout
    known = layout.conventions
    if layout.name in _DETECTRON2:
        known = TORCHVISION_CONVENTIONS if author in TORCHVISION_AUTHORS else None
        if known is None and "pixel_mean" in weights.tensors and "pixel_std" in weights.tensors:
            return _from_pixel_tensors(weights.tensors), "pixel_mean and pixel_std of the file"
    resnet = weights.resnet()
    if layout.grouped_conventions and resnet is not None and resnet.groups > 1:
        known = layout.grouped_conventions
    if layout.name == "openmmlab" and _is_caffe_style(content.get("meta")):
        return MSRA_CONVENTIONS, "the config in the file (style='caffe')"
    if layout.library in ("timm", "transformers") or path.endswith(".safetensors"):
        beside = _config_beside(path)
        if beside:
            return {**(known or {}), **beside}, "config.json beside the file"
    return known, "usual for this layout" if known else ""


def _from_pixel_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Old files of detectron2's model zoo hold the statistics; the order of the means tells the colours."""
    mean = [round(float(v), 4) for v in tensors["pixel_mean"].flatten()]
    std = [round(float(v), 4) for v in tensors["pixel_std"].flatten()]
    order = "BGR" if mean[0] < mean[-1] else "RGB"
    return {"input_format": order, "pixel_mean": mean, "pixel_std": std, "stride_in_1x1": None}


def _is_caffe_style(meta: Any) -> bool:
    text = str(meta.get("cfg") or meta.get("config") or "") if isinstance(meta, Mapping) else ""
    return re.search(r"style\W{1,4}caffe\b", text) is not None


def _config_beside(path: str) -> dict[str, Any]:
    """Conventions in the config.json (timm, transformers) and preprocessor_config.json of a hub download."""
    folder, found = os.path.dirname(path), {}
    config = _read_json(os.path.join(folder, "config.json"))
    if config.get("model_type") == "resnet":
        found["stride_in_1x1"] = bool(config.get("downsample_in_bottleneck", False))
        if config.get("downsample_in_first_stage"):
            raise CheckpointError(
                f"{path}: config.json beside it says downsample_in_first_stage, a stride in res2 that "
                "detectron2's ResNet does not have. The weights cannot be used here."
            )
    preprocessor = _read_json(os.path.join(folder, "preprocessor_config.json"))
    for key in ("mean", "std"):
        values = (config.get("pretrained_cfg") or {}).get(key) or preprocessor.get(f"image_{key}")
        if values:
            found[f"pixel_{key}"] = [round(255 * float(value), 4) for value in values]
    return found


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore it or move it away.") from error
    return content if isinstance(content, dict) else {}
