"""What a checkpoint holds beside weights: random states, the plain config, and how to read the weights.

Everything must be loadable with `torch.load(weights_only=True)`: tensors, str, int, float, bool, None, list,
tuple, dict. A numpy scalar saves well and then cannot be loaded (measured on torch 2.14); it is refused
when saving, with the key that holds it.
"""

import random
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

import densessl
from densessl.errors import CheckpointError

FORMAT = "densessl"
# bool, int, float and str subclasses (numpy.float64 is a float) are not plain, hence exact types.
_PLAIN_TYPES = (str, int, float, bool, bytes, type(None), torch.Size, torch.device, torch.dtype)


def check_plain(value: Any, key: str = "") -> None:
    """Refuses anything that `torch.load(weights_only=True)` would not give back.

    Args:
        value: the (nested) object about to be saved.
        key: its name in messages.

    Raises:
        CheckpointError: naming the key and type of the first offending value.
    """
    if isinstance(value, torch.Tensor) or type(value) in _PLAIN_TYPES:
        return
    if type(value) in (dict, OrderedDict):
        for name, item in value.items():
            check_plain(name, f"{key}.<key {name!r}>")
            check_plain(item, f"{key}.{name}" if key else str(name))
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{key}[{index}]")
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise CheckpointError(
            f"The checkpoint entry {key} is a {kind} and could not be loaded again; whatever state_dict "
            "returns it must convert it (float(x), int(x), x.item(), list(x), torch.as_tensor(x))."
        )


def plain_config(value: Any) -> Any:
    """Plain python copy of a config: interpolations resolved, classes and functions as dotted names.

    Args:
        value: an omegaconf node, or nested dicts and lists.
    """
    if isinstance(value, (DictConfig, ListConfig)):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, Mapping):
        return {str(k): plain_config(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_config(item) for item in value]
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def collect_rng_state() -> dict[str, Any]:
    """Random states of this process: python, numpy's global generator, torch on CPU and on its GPU."""
    legacy = np.random.get_state(legacy=False)
    return {
        "python": random.getstate(),
        "numpy": {
            "bit_generator": legacy["bit_generator"],
            "key": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),  # (624,) values of uint32
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def restore_rng_state(state: dict[str, Any]) -> None:
    """Inverse of `collect_rng_state`. A saved GPU state needs a GPU to go to; without one it is left out."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    saved = state["numpy"]
    np.random.set_state(
        {
            "bit_generator": saved["bit_generator"],
            "state": {"key": saved["key"].numpy().astype(np.uint32), "pos": saved["pos"]},
            "has_gauss": saved["has_gauss"],
            "gauss": saved["gauss"],
        }
    )
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def input_conventions(model: nn.Module) -> dict[str, Any]:
    """How the weights expect their pixels, as plain values; None where the model does not say.

    Keys: input_format ("RGB" or "BGR"), pixel_mean and pixel_std (3 floats each, pixel range 0-255, in the
    order of input_format), stride_in_1x1 (which convolution of a bottleneck strides).
    """
    pixels = getattr(model, "pixel_mean", None)
    return {
        # Our own meta-architectures take RGB and say nothing; detectron2's detectors carry the attribute.
        "input_format": getattr(model, "input_format", None) or (None if pixels is None else "RGB"),
        "pixel_mean": None if pixels is None else [round(v, 4) for v in pixels.flatten().tolist()],
        "pixel_std": None if pixels is None else [round(v, 4) for v in model.pixel_std.flatten().tolist()],
        "stride_in_1x1": _stride_in_1x1(model),
    }


def _stride_in_1x1(model: nn.Module) -> bool | None:
    # Imported here: converting a file needs none of detectron2's models.
    from detectron2.modeling.backbone.resnet import BottleneckBlock

    for module in model.modules():
        if isinstance(module, BottleneckBlock) and module.stride > 1:
            return tuple(module.conv1.stride) != (1, 1)
    return None


def model_meta(model: nn.Module, world_size: int) -> dict[str, Any]:
    """The `meta` entry of a checkpoint: what the weights are and how to use them."""
    return {
        "format": FORMAT,
        "version": densessl.__version__,
        "torch": str(torch.__version__),
        "architecture": type(model).__name__,
        "world_size": world_size,
        "trunk": "backbone",
        **input_conventions(model),
    }
