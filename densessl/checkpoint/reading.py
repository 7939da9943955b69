"""Reads weight files of any origin without running anything that stands in them.

A torch file and a pickle are programs. `torch.load(weights_only=True)` and the restricted unpickler below
build tensors, arrays and plain containers, and refuse the rest by name. torch's own message for a truncated
file proposes to switch that protection off; here damage and refusal are told apart, and neither message does.
"""

import argparse
import collections
import io
import os
import pickle
import re
from typing import Any

import numpy as np
import torch

from densessl.checkpoint.files import check_zip, verify
from densessl.errors import CheckpointError

# numpy 1 and numpy 2 names of the same functions; both occur in published files.
_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_RECONSTRUCT = np.ndarray.__reduce__(np.empty(0))[0]
_SCALAR = np.float64(0).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]  # arrays in pickle protocol 5
_DTYPES = [type(np.dtype(code)) for code in "?bBhHiIlLqQefdUS"]

# The first bytes of a torch file before 1.6: its magic number as a pickle (torch/serialization.py).
_LEGACY_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_ZIP = b"PK\x03\x04"


class _HistoryBuffer:
    """Stands for mmengine's log buffer (`mmengine/logging/history_buffer.py`): its arrays as attributes,
    none of its code. Every training checkpoint of mmselfsup 1.x and mmpretrain holds some."""


FOREIGN_SAFE_GLOBALS = [
    *((_RECONSTRUCT, f"{module}._reconstruct") for module in _NUMPY_MODULES),
    *((_SCALAR, f"{module}.scalar") for module in _NUMPY_MODULES),
    np.ndarray,
    np.dtype,
    *_DTYPES,
    argparse.Namespace,
    (_HistoryBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
]
"""The only globals that files from elsewhere may name beyond torch's own list: numpy arrays and scalars, the
`args` namespace that training scripts of 2019-2022 store (moco, simsiam, dino, detr), and an inert stand-in
for mmengine's log buffer. None runs code."""

_PICKLE_GLOBALS: dict[tuple[str, str], Any] = {
    **{(module, "_reconstruct"): _RECONSTRUCT for module in _NUMPY_MODULES},
    **{(module, "scalar"): _SCALAR for module in _NUMPY_MODULES},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FROM_BUFFER for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


def read_training_checkpoint(path: str, *, verified: bool = False) -> dict[str, Any]:
    """Reads a file that this project wrote: verified, weights-only, on CPU.

    Args:
        path: the file.
        verified: this process has just compared the checksum; large files take seconds each time.

    Raises:
        CheckpointError: the file is damaged, or names a global that torch does not list as safe.
    """
    if not verified:
        verify(path)
    return _torch_load(path, [])


def read_weights(path: str, mmap: bool = False) -> dict[str, Any]:
    """Reads a weight file of any origin: a pickle (detectron2 model zoo), `.safetensors`, or a torch file.

    Args:
        path: the file.
        mmap: leave the tensors of a torch file on disk until they are used. The file must stay as it is for
            as long as they are (a rename over it does no harm).

    Returns:
        what the file holds at top level; safetensors come as {"model": tensors, "metadata": dict}.

    Raises:
        CheckpointError: the file is missing, damaged, or asks for code to be run.
    """
    verify(path)
    kind = _kind(path)
    if kind == "safetensors":
        content = _read_safetensors(path)
    elif kind == "pickle":
        content = _read_pickle(path)
    else:
        content = _torch_load(
            path, FOREIGN_SAFE_GLOBALS, mmap and kind == "zip" and not path.endswith(".safetensors")
        )
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not a dict of tensors; save a model.state_dict()."
        )
    return content


def _kind(path: str) -> str:
    """ "zip" or "legacy" (torch), "pickle" or "safetensors"; judged by content, since published files carry
    any suffix. Pickles of protocol 0 and 1 and broken files have no signature, there the suffix decides."""
    with open(path, "rb") as file:
        head = file.read(len(_LEGACY_TORCH))
    if head.startswith(_ZIP):
        return "zip"
    if head == _LEGACY_TORCH:
        return "legacy"
    # eight bytes for the length of a JSON header, then the header; a length may begin like a pickle
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < os.path.getsize(path):
        return "safetensors"
    if head.startswith(pickle.PROTO):
        return "pickle"
    if path.endswith(".safetensors"):
        return "safetensors"
    return "pickle" if path.endswith(".pkl") else "legacy"


def _torch_load(path: str, allowed: list, mmap: bool = False) -> Any:
    try:
        with torch.serialization.safe_globals(allowed), open(path, "rb") as file:
            # torch judges a path by its ending (2.14 hands *.safetensors on), so the open file where possible
            source = path if mmap else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        names = _offending_globals(path, str(error))
        if names:
            raise _refusal(path, names) from error
        raise _damage(path, error) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        UnicodeDecodeError,
        AttributeError,
    ) as error:
        raise _damage(path, error) from error


def _refusal(path: str, names: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{path} was not loaded: it names {', '.join(names)}, which is neither a tensor nor plain data, and "
        "loading it could run code of its author. Nothing in the file was executed. Ask for a file that "
        "holds a state_dict only, or for a .safetensors file."
    )


def _damage(path: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    # torch's advice, or the bare key of a KeyError: repeat the kind of failure only
    if "weights" in reason.lower() or isinstance(error, KeyError):
        reason = type(error).__name__
    try:
        check_zip(path)
    except CheckpointError as damaged:
        return damaged
    return CheckpointError(
        f"{path} is damaged or not a torch file ({reason}); download or copy it again and compare sizes."
    )


def _offending_globals(path: str, message: str) -> list[str]:
    """Names of the globals that torch refused; empty when the failure has another reason."""
    match = re.search(r"(?:GLOBAL|[Gg]lobal:?)\s+`?([A-Za-z_][\w]*(?:\.[\w]+)+)", message)
    named = [match.group(1)] if match else []
    try:
        listed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (RuntimeError, ValueError, pickle.UnpicklingError):  # legacy formats have no such listing
        listed = []
    allowed = {
        entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"
        for entry in FOREIGN_SAFE_GLOBALS
    }
    others = [name for name in listed if name not in allowed]
    return sorted(set(others)) or named


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler that can build numpy arrays and scalars, builtin containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # python 3 writes bytes like this in protocol 2
            return _encode
        if module == "numpy.dtypes" and hasattr(np.dtypes, name) and name.endswith("DType"):
            return getattr(np.dtypes, name)
        try:
            return _PICKLE_GLOBALS[module, name]
        except KeyError:
            raise _DisallowedGlobal(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _DisallowedGlobal(f"persistent object {pid!r}")


class _DisallowedGlobal(Exception):
    """A pickle names something that is not on the list."""


def _encode(text: str, encoding: str) -> bytes:
    return text.encode(encoding)


def _read_pickle(path: str) -> Any:
    with open(path, "rb") as file:
        content = file.read()
    try:
        # latin1 is how python 3 reads the arrays of python 2 pickles (detectron2/checkpoint).
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except _DisallowedGlobal as error:
        raise _refusal(path, [str(error)]) from error
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        UnicodeDecodeError,
        MemoryError,
        OverflowError,
    ) as error:
        raise _damage(path, error) from error


def _read_safetensors(path: str) -> dict[str, Any]:
    # Imported here: only this format needs the library.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return {"model": tensors, "metadata": file.metadata() or {}}
    except (SafetensorError, ValueError, OSError) as error:
        raise _damage(path, error) from error
