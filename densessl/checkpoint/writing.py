"""Writes converted weights: torch file, detectron2 pickle or safetensors, whole or not at all."""

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from densessl.checkpoint.files import TEMP_SUFFIX, atomic_write, sync_directory
from densessl.checkpoint.layouts import Layout
from densessl.checkpoint.recognise import METADATA
from densessl.checkpoint.state import FORMAT, check_plain
from densessl.errors import CheckpointError

REMEDY = "choose another OUT"


class StateDict(OrderedDict):
    """A state dict that can carry attributes; written as a plain OrderedDict."""

    def __reduce__(self):
        return (OrderedDict, (), dict(vars(self)), None, iter(self.items()))


def check_target(source: str, path: str, layout: Layout) -> None:
    """Refuses a path that cannot be written, before any work is done.

    Raises:
        CheckpointError: the path is the source itself, its folder does not exist or cannot be written, or
            the layout is not kept in files with that ending.
    """
    folder = os.path.dirname(path) or "."
    if not path.endswith(layout.suffixes):
        raise CheckpointError(
            f"{path}: a {layout.name} file ends in {', '.join(layout.suffixes)}; rename OUT, or choose "
            "another --to."
        )
    if os.path.exists(path) and os.path.samefile(source, path):
        raise CheckpointError(f"IN and OUT are the same file, {path}; choose another OUT.")
    if os.path.isdir(path):
        raise CheckpointError(f"OUT {path} is a folder; name a file in it.")
    if not os.path.isdir(folder):
        raise CheckpointError(f"The folder {folder} of OUT does not exist; create it or choose another OUT.")
    if not os.access(folder, os.W_OK):
        raise CheckpointError(f"The folder {folder} of OUT cannot be written; choose another OUT.")


def write_weights(
    path: str, layout: Layout, values: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]
) -> int:
    """Writes one file, atomically; the ending of the path decides the format.

    Args:
        path: see `check_target`.
        layout: decides container and other entries.
        values: {name in the file: tensor}.
        metadata: plain values that say how the weights are used; kept in every file but Caffe2's.

    Returns:
        size in bytes.

    Raises:
        CheckpointError: it cannot be written; what stood at `path` is untouched.
    """
    check_plain(dict(metadata), METADATA)
    state = {name: _alone(tensor) for name, tensor in values.items()}
    if path.endswith(".safetensors"):
        return _write_safetensors(path, state, metadata)
    if path.endswith(".pkl"):
        content = _top_level(layout, {name: _array(name, t) for name, t in state.items()}, metadata)
        return atomic_write(path, lambda file: pickle.dump(content, file, protocol=4), REMEDY)[0]
    content = _top_level(layout, StateDict(state), metadata)
    return atomic_write(path, lambda file: torch.save(content, file), REMEDY)[0]


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, in a storage of its own size: torch.save writes the whole storage behind a view."""
    tensor = tensor.detach()
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def _array(name: str, tensor: torch.Tensor) -> Any:
    try:
        return tensor.numpy()
    except TypeError as error:
        raise CheckpointError(
            f"{name} is {tensor.dtype}, which numpy and so a .pkl file does not have; write .pth."
        ) from error


def _top_level(layout: Layout, state: dict, metadata: Mapping[str, Any]) -> dict:
    if layout.name.startswith("caffe2"):
        return state  # detectron2 takes every entry of such a file for a tensor
    if not layout.container:
        setattr(state, METADATA, dict(metadata))
        return state
    content: dict = state
    for key in reversed(layout.container):
        content = {key: content}
    if layout.name == "densessl":
        architecture = metadata.get("architecture")
        content["meta"] = {**metadata, "format": FORMAT, "architecture": architecture, "trunk": "backbone"}
        return content
    return {**content, **dict(layout.fields), METADATA: dict(metadata)}


def _write_safetensors(path: str, state: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> int:
    # Imported here: only this format needs the library.
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    seen: set[int] = set()
    separate = {}
    for name, tensor in state.items():  # the format has no shared tensors
        pointer = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if pointer in seen and tensor.numel() else tensor
        seen.add(pointer)
    temporary = (
        path + TEMP_SUFFIX
    )  # the library opens its file itself, and writes it without a copy in memory
    try:
        save_file(separate, temporary, {"format": "pt", METADATA: json.dumps(metadata)})
        os.replace(temporary, path)
        sync_directory(os.path.dirname(path))
    except (SafetensorError, OSError) as error:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise CheckpointError(f"Cannot write {path}: {error}; {REMEDY}.") from error
    return os.path.getsize(path)
