"""Finds the file that `train.init_checkpoint` names: a path, a run directory, or an address.

Addresses go through iopath's handlers as detectron2 registers them (`detectron2/utils/file_io.py`):
`detectron2://` names and `https://` are fetched into the cache (FVCORE_CACHE). iopath compares the size with
what the server announced.
"""

import os
import re

from detectron2.utils.file_io import PathManager

from densessl.checkpoint.files import file_sha256, newest_valid
from densessl.errors import CheckpointError

# Sites that put the beginning of a file's sha256 into its name (torch.hub's rule: name-<hash>.suffix).
HASHED_SITES = (
    "https://download.pytorch.org/models/",
    "https://dl.fbaipublicfiles.com/semiweaksupervision/",
    "https://github.com/huggingface/pytorch-image-models/releases/download/",
    "https://github.com/rwightman/pytorch-image-models/releases/download/",
    "https://download.openmmlab.com/",
)
_HASH = re.compile(r"[-_]([0-9a-f]{8,64})\.(pth|pt|pth\.tar|safetensors|pkl)$")


def resolve_weights_path(path: str, named_by: str = "train.init_checkpoint") -> str:
    """Local file of `train.init_checkpoint`: a file, a run directory (its newest valid checkpoint), or a URL.

    Args:
        path: what the user gave.
        named_by: where, for messages.

    Raises:
        CheckpointError: nothing is there, or what was fetched is not the file that its name promises.
    """
    if "://" in path:
        return _fetch(path, named_by)
    if os.path.isdir(path):
        newest, _ = newest_valid(path)
        if not newest:
            raise CheckpointError(f"The directory {path} holds no checkpoint; name a weight file.")
        return newest
    if not os.path.isfile(path):
        raise CheckpointError(f"Checkpoint {path} does not exist; check {named_by}.")
    return path


def _fetch(address: str, named_by: str) -> str:
    try:
        local = PathManager.get_local_path(address)
    # urllib's errors, a cache that cannot be written, and iopath's answer to a scheme that nobody handles
    except (OSError, NotImplementedError, AssertionError) as error:
        raise CheckpointError(
            f"{address} cannot be fetched: {error}. Check the address and the network, or download the file "
            f"elsewhere and name the copy in {named_by}."
        ) from error
    if not os.path.isfile(local):
        raise CheckpointError(
            f"{address} cannot be fetched: no handler knows this kind of address. Use detectron2://, "
            "https:// or a local path."
        )
    expected = promised_hash(address)
    if expected is not None:
        found = file_sha256(local)
        if not found.startswith(expected):
            raise CheckpointError(
                f"{address} was fetched as {local}, whose sha256 begins {found[: len(expected)]}, not "
                f"{expected}: it is damaged or was replaced. Delete {local} and start again."
            )
    return local


def promised_hash(address: str) -> str | None:
    """Beginning of the sha256 that the name of a file promises, on sites that keep this rule."""
    match = _HASH.search(address)
    return match.group(1) if match and address.startswith(HASHED_SITES) else None
