"""Recognises whose file a set of weights comes from, and gives its ResNet trunk detectron2's names.

The layouts are data: an ordered list of prefixes under which a trunk may stand, and one table of names.
Sources: torchvision `models/resnet.py`; WXinlong/DenseCL
`benchmarks/detection/convert-pretrain-to-detectron2.py` (the same rule in facebookresearch/moco); VISSL
`vissl/models/trunks/resnext.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from densessl.checkpoint.state import FORMAT
from densessl.errors import CheckpointError

# First match wins. A full DenseCL training file holds the trunk twice (`backbone.` and `encoder_q.0.`, the
# same tensors) and the momentum trunk under `encoder_k.0.`, which is never taken.
TORCHVISION_PREFIXES = (
    ("backbone.", "DenseCL / OpenSelfSup / mmselfsup"),
    ("encoder_q.0.", "OpenSelfSup query encoder"),
    ("module.encoder_q.", "MoCo official"),
    ("module.encoder.", "SimSiam official"),
    ("_feature_blocks.", "VISSL trunk"),
    ("", "torchvision or extracted backbone"),
)
# The trunk of a detector with a feature pyramid, of ViTDet, of every other model, and a bare trunk.
DETECTRON2_PREFIXES = ("backbone.bottom_up.", "backbone.net.", "backbone.", "")
C4_STAGE = ("roi_heads.res5.", "res5.")

TORCHVISION_TO_DETECTRON2 = (
    (r"conv1\.(\w+)", r"stem.conv1.\1"),
    (r"bn1\.(\w+)", r"stem.conv1.norm.\1"),
    (r"layer(\d+)\.(\d+)\.conv(\d)\.(\w+)", r"res{stage}.\2.conv\3.\4"),
    (r"layer(\d+)\.(\d+)\.bn(\d)\.(\w+)", r"res{stage}.\2.conv\3.norm.\4"),
    (r"layer(\d+)\.(\d+)\.downsample\.0\.(\w+)", r"res{stage}.\2.shortcut.\3"),
    (r"layer(\d+)\.(\d+)\.downsample\.1\.(\w+)", r"res{stage}.\2.shortcut.norm.\3"),
)

# What torchvision-named trunks are trained with (pixel range 0-255).
TORCHVISION_CONVENTIONS = {
    "input_format": "RGB",
    "pixel_mean": [123.675, 116.28, 103.53],
    "pixel_std": [58.395, 57.12, 57.375],
    "stride_in_1x1": False,
}
# Authors that the conversion scripts above write into their .pkl files.
_TORCHVISION_AUTHORS = ("OpenSelfSup", "MOCO", "MMSelfSup", "torchvision")


@dataclass(frozen=True)
class Weights:
    """The content of a weight file, recognised.

    Args:
        layout: whose file it is, in words.
        prefix: where the trunk stands in the file.
        tensors: every tensor under its name in the file.
        trunk: {detectron2 trunk name ("res2.0.conv1.weight"): name in the file}.
        conventions: see `state.input_conventions`; None when the file does not say.
        architecture: class name of the model that was saved, None for foreign files.
    """

    layout: str
    prefix: str
    tensors: dict[str, torch.Tensor]
    trunk: dict[str, str]
    conventions: Mapping[str, Any] | None
    architecture: str | None


def torchvision_to_detectron2(name: str) -> str | None:
    """Detectron2's name of a torchvision ResNet tensor; None for what is not part of the trunk (`fc.*`)."""
    for pattern, target in TORCHVISION_TO_DETECTRON2:
        match = re.fullmatch(pattern, name)
        if match:
            # torchvision's layer1 is res2: detectron2 counts the stem as the first stage.
            stage = int(match.group(1)) + 1 if "{stage}" in target else 0
            return match.expand(target.replace("{stage}", str(stage)))
    return None


def recognise(content: Mapping[str, Any], path: str) -> Weights:
    """Finds tensors, layout and trunk in what `reading.read_weights` returned.

    Raises:
        CheckpointError: no known layout fits; names what the file holds.
    """
    meta = content.get("meta")
    ours = isinstance(meta, Mapping) and meta.get("format") == FORMAT
    tensors = _as_tensors(_find_state(content, path), path)
    if ours:
        return _detectron2_weights(tensors, f"{meta['architecture']} checkpoint of this project", meta)
    for prefix, owner in TORCHVISION_PREFIXES:
        if {f"{prefix}conv1.weight", f"{prefix}layer1.0.conv1.weight"} <= tensors.keys():
            return _torchvision_weights(tensors, prefix, owner)
    author = content.get("__author__")
    if author != "Caffe2" and any(f"{prefix}stem.conv1.weight" in tensors for prefix in DETECTRON2_PREFIXES):
        weights = _detectron2_weights(tensors, f"detectron2 names, author {author or 'not stated'}", None)
        known = TORCHVISION_CONVENTIONS if author in _TORCHVISION_AUTHORS else None
        return Weights(**{**vars(weights), "conventions": known})
    raise CheckpointError(
        f"{path}: the names of its {len(tensors)} tensors ({', '.join(list(tensors)[:3])}, ...) belong to no "
        "layout known here: checkpoints of this project, detectron2 (not Caffe2) and torchvision ResNets, "
        "DenseCL, OpenSelfSup, mmselfsup, MoCo, SimSiam, VISSL. Rename them to one of these."
    )


def _detectron2_weights(
    tensors: dict[str, torch.Tensor], layout: str, meta: Mapping[str, Any] | None
) -> Weights:
    prefix = next(p for p in DETECTRON2_PREFIXES if any(name.startswith(p) for name in tensors))
    trunk = {name.removeprefix(prefix): name for name in tensors if name.startswith(prefix)}
    if prefix == "backbone.":  # a C4 detector has its last stage in the heads
        stage = re.compile(re.escape(C4_STAGE[0]) + r"\d+\.")
        trunk.update({C4_STAGE[1] + n.removeprefix(C4_STAGE[0]): n for n in tensors if stage.match(n)})
    return Weights(layout, prefix, tensors, trunk, meta, meta and meta["architecture"])


def _torchvision_weights(tensors: dict[str, torch.Tensor], prefix: str, owner: str) -> Weights:
    trunk = {}
    for name in tensors:
        if name.startswith(prefix):
            target = torchvision_to_detectron2(name.removeprefix(prefix))
            if target is not None:
                trunk[target] = name
    layout = f"{owner}, torchvision names"
    return Weights(layout, prefix, tensors, trunk, TORCHVISION_CONVENTIONS, None)


def _find_state(content: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The state dict inside a file: under a known key, or the file itself."""
    if "classy_state_dict" in content:  # VISSL
        return content["classy_state_dict"]["base_model"]["model"]["trunk"]
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content.get(key), Mapping):
            return content[key]
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return content
    raise CheckpointError(
        f"{path} holds no weights that can be found; its top level is "
        f"{', '.join(map(str, list(content)[:8])) or 'empty'}. "
        "Expected a state dict, or one under model, state_dict or model_state_dict."
    )


def _as_tensors(state: Mapping[str, Any], path: str) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, value in state.items():
        try:
            tensors[str(name)] = value if isinstance(value, torch.Tensor) else torch.tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path}: the entry {name} of its weights is a {type(value).__name__}, not a tensor; "
                "save a state_dict of tensors."
            ) from error
    return tensors
