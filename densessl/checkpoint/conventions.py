"""Compares how the weights of a file take their pixels with how a model gives them.

Wrong colour order, statistics or stride placement load without a complaint and cost several AP; BN folded
into an affine layer trains wrongly under any norm but FrozenBN (detectron2 `checkpoint/catalog.py`).
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from densessl.checkpoint.recognise import Weights
from densessl.checkpoint.state import input_conventions
from densessl.errors import CheckpointError

_PIXEL_TOLERANCE = 0.1  # in 0-255; papers round the same statistics differently
_FITS = {"BN": ("BN", "FrozenBN"), "GN": ("GN",), "affine": ("FrozenBN",)}
_IN_WORDS = {"affine": "affine (BN folded into scale and shift)"}


def model_norm(model: nn.Module, trunk: Mapping[str, str]) -> str | None:
    """ "BN", "FrozenBN" or "GN": the norm behind the first convolution of a trunk; None for another kind.

    Args:
        model: holds the trunk.
        trunk: {name in the model: detectron2 trunk name}.
    """
    for name, generic in trunk.items():
        if generic == "stem.conv1.norm.weight":
            module = model.get_submodule(name.removesuffix(".weight"))
            if isinstance(module, FrozenBatchNorm2d):
                return "FrozenBN"
            if isinstance(module, nn.GroupNorm):
                return "GN"
            return "BN" if isinstance(module, nn.modules.batchnorm._BatchNorm) else None
    return None


def require_same_conventions(
    weights: Weights, model: nn.Module, trunks: Sequence[Mapping[str, str]], path: str
) -> None:
    """Refuses weights that expect other input, strides or norms than the model has.

    Raises:
        CheckpointError: naming both values, and the config keys to set.
    """
    saved, current = weights.conventions, input_conventions(model)
    if saved is None or all(saved.get(key) is None for key in ("input_format", "pixel_mean", "pixel_std")):
        logging.getLogger(__name__).warning(
            "%s does not say its colour order and pixel statistics; the model feeds it %s, mean %s, std %s",
            path,
            *(current[key] for key in ("input_format", "pixel_mean", "pixel_std")),
        )
    saved = saved or {}
    differing = {
        key: f"{key}: {saved[key]} in the file, {value} in the model"
        for key, value in current.items()
        if value is not None and saved.get(key) is not None and not _agree(saved[key], value)
    }
    norm, ours = weights.norm(), model_norm(model, trunks[0]) if trunks else None
    if norm in _FITS and ours is not None and ours not in _FITS[norm]:
        differing["norm"] = f"norm: {_IN_WORDS.get(norm, norm)} in the file, {ours} in the model"
    if differing:
        wanted = {**saved, "norm": _FITS.get(norm, (norm,))[0]}
        built = differing.keys() & {"stride_in_1x1", "norm"}
        raise CheckpointError(
            f"The weights of {path} ({weights.title}) expect another model or other input: "
            f"{'; '.join(differing.values())}. "
            f"Set {' '.join(_settings(key, wanted[key], trunks) for key in differing)}"
            f"{' (names of detectron2 config trees; build_resnet strides in the 3x3 only)' if built else ''}."
        )


def _settings(key: str, value: Any, trunks: Sequence[Mapping[str, str]]) -> str:
    """The config overrides that make a model agree with the file."""
    text = f'"{value}"' if isinstance(value, str) else str(value).replace(" ", "")
    if key not in ("stride_in_1x1", "norm"):
        return f"model.{key}={text}"
    names = list(trunks[0]) if trunks else []
    where = "model.backbone.bottom_up" if any("bottom_up." in name for name in names) else "model.backbone"
    places = [f"{where}.stages"]
    if any(name.startswith("roi_heads.res5.") for name in names):
        places.append("model.roi_heads.res5")
    if key == "norm":
        places.append(f"{where}.stem")
    return " ".join(f"{place}.{key}={text}" for place in places)


def _agree(saved: Any, current: Any) -> bool:
    if isinstance(current, list):
        return len(saved) == len(current) and all(
            abs(a - b) <= _PIXEL_TOLERANCE for a, b in zip(saved, current)
        )
    return saved == current
