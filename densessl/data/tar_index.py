"""The images of a tar shard: where each begins and how long it is, read once and remembered.

Reading the headers of a shard takes 32 us per member on a local disk, 40 s for ImageNet, on every rank and at
every start. So each index is kept in `$XDG_CACHE_HOME/densessl/tar` (`~/.cache` where that is not
set), one file per path, and used while the shard's size and time of modification are what they were.
"""

import contextlib
import hashlib
import json
import logging
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from densessl.data.decode import printable
from densessl.data.sources import IMAGE_EXTENSIONS
from densessl.errors import DataError

_FORMAT = 1  # of the kept files
_UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
logger = logging.getLogger(__name__)


class ShardIndex(NamedTuple):
    """Images of one shard, in its order.

    Attributes:
        names: of the members.
        places: int64 (N, 2), offset and bytes of each.
        left_out: why other members with an image's name are not among them -> how many.
    """

    names: list[bytes]
    places: np.ndarray
    left_out: Counter[str]


def index_shard(shard: str) -> ShardIndex:
    """Returns the index of an uncompressed tar file, kept from an earlier start where that still holds.

    Raises:
        DataError: the shard is missing, truncated or compressed.
    """
    try:
        status = os.stat(shard)
    except OSError as error:
        raise DataError(f"cannot read the shard {printable(shard)}: {error.strerror}") from error
    stamp = np.array([_FORMAT, status.st_size, status.st_mtime_ns], np.int64)
    kept = _cache_file(shard)
    index = _load(kept, stamp)
    if index is None:
        left_out: Counter[str] = Counter()
        members = list(_image_members(shard, status.st_size, left_out))
        places = np.array([place for _, *place in members], np.int64).reshape(-1, 2)
        index = ShardIndex([name for name, *_ in members], places, left_out)
        _save(kept, stamp, index)
    return index


def _cache_file(shard: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (
        base / "densessl" / "tar" / f"{hashlib.sha256(os.fsencode(os.path.realpath(shard))).hexdigest()}.npz"
    )


def _load(path: Path, stamp: np.ndarray) -> ShardIndex | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not np.array_equal(arrays["stamp"], stamp):
                return None
            ends = np.cumsum(arrays["name_lengths"]).tolist()
            buffer = arrays["names"].tobytes()
            names = [buffer[start:end] for start, end in zip([0, *ends], ends)]
            return ShardIndex(names, arrays["places"], Counter(json.loads(arrays["left_out"].tobytes())))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _UNREADABLE as error:
        logger.warning("The kept index %s is damaged and will be made again: %s", path, error)
        return None


def _save(path: Path, stamp: np.ndarray, index: ShardIndex) -> None:
    arrays = {
        "stamp": stamp,
        "names": np.frombuffer(b"".join(index.names), np.uint8),
        "name_lengths": np.array([len(name) for name in index.names], np.int64),
        "places": index.places,
        "left_out": np.frombuffer(json.dumps(index.left_out).encode(), np.uint8),
    }
    temporary = path.with_suffix(f".{os.getpid()}.tmp")  # ranks may write at the same time
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            np.savez(stream, **arrays)
        os.replace(temporary, path)
    except OSError as error:  # a home that cannot be written: the next start reads the headers again
        logger.info("The index of a tar shard is not kept for the next start: %s", error)
        with contextlib.suppress(OSError):
            temporary.unlink()


def _image_members(shard: str, size: int, left_out: Counter[str]) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset, bytes) of the images of one shard; counts what it leaves out."""
    seen: set[bytes] = set()
    try:
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                name = os.fsencode(member.name)
                # `._x.jpg` holds no image, but macOS attributes
                hidden = os.path.basename(name).startswith(b".")
                if member.isdir() or hidden or not name.lower().endswith(IMAGE_EXTENSIONS):
                    continue
                reason = _refusal(member, seen)
                if reason:
                    left_out[reason] += 1
                    continue
                seen.add(name)
                yield name, member.offset_data, member.size
            with open(shard, "rb") as stream:
                stream.seek(archive.offset)
                closed = stream.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except OSError as error:
        raise DataError(f"cannot read the shard {printable(shard)}: {error.strerror}") from error
    except tarfile.TarError as error:
        raise DataError(
            f"the shard {printable(shard)} ({size} bytes) is damaged or not an uncompressed tar file: {error}"
        ) from error
    # A writer closes an archive with zero blocks. tarfile takes a damaged header, and the end of a copy that
    # stopped between two members, for the end of the archive without a word.
    if not closed:
        raise DataError(f"the shard {printable(shard)} ({size} bytes) is truncated or damaged: no end mark")


def _refusal(member: tarfile.TarInfo, seen: set[bytes]) -> str | None:
    if not member.isreg() or member.issparse():
        return "links, devices or sparse files"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return "unsafe names (absolute or with ..)"
    if os.fsencode(member.name) in seen:
        return "repeated names"
    return None
