#!/usr/bin/env python3
"""Packs the image files of a folder into one LMDB, unchanged: one file instead of a million.

    tools/folder2lmdb.py coco/train2017 coco_train2017.lmdb

Key: the path below the folder, as bytes (at most 511). Value: the file as it is. The key `__densessl__`
holds JSON with the format's version and the number of images; readers leave out keys that begin with `__`.
Order and names equal those of the folder, so a run may change from one to the other and resume.

The target appears under its name only when complete. A stopped run leaves `<target>.partial`; started
again, it goes on behind the last image that was committed.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from densessl.data.sources import ImageSource

T = TypeVar("T")

FORMAT = 1
META_KEY = b"__densessl__"
COMMIT_BYTES = 256 << 20


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="folder of images, however deep; or a list file")
    parser.add_argument("target", help="LMDB file to write, named *.lmdb; must not exist")
    parser.add_argument("--root", help="folder that a list file's paths are relative to")
    return parser.parse_args(argv)


def pack(source: str, target: str, root: str | None = None) -> int:
    """Writes the LMDB.

    Args:
        source: folder or list file.
        target: file to create.
        root: see densessl.data.sources.ListSource.

    Returns:
        The number of images.

    Raises:
        DataError: nothing to pack, a name too long, an unreadable file, or a target that exists.
    """
    import lmdb

    from densessl.data.decode import printable
    from densessl.data.sources import FolderSource, ListSource
    from densessl.errors import DataError

    if os.path.exists(target):
        raise DataError(f"{target} exists: remove it or choose another name")
    images = ListSource(source, root) if os.path.isfile(source) else FolderSource(source)
    partial = f"{target}.partial"
    map_size = _map_size(images)
    try:
        os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
        environment = lmdb.open(partial, subdir=False, map_size=map_size)
    except (lmdb.Error, OSError) as error:
        raise DataError(f"cannot write {partial}: {error}; choose another target") from error
    longest = environment.max_key_size()
    for name in images.names:
        if len(name) > longest or name.startswith(b"__"):
            environment.close()
            raise DataError(f"{printable(name)}: keys have at most {longest} bytes and do not begin with __")
    try:
        _write(environment, images, time.monotonic())
    except lmdb.Error as error:
        raise DataError(f"cannot write {partial}: {error}; {_free(partial)} free") from error
    finally:
        environment.close()
    os.replace(partial, target)
    os.remove(f"{partial}-lock")
    _sync_folder(target)
    return len(images)


def _map_size(images: "ImageSource") -> int:
    """Bytes of address space: each value takes whole pages of 4096 bytes, plus a tenth for keys and tree."""
    pages = sum(_access(os.path.getsize, images, index) // 4096 + 2 for index in range(len(images)))
    return int(pages * 4096 * 1.1) + (64 << 20)


def _access(function: Callable[[str], T], images: "ImageSource", index: int) -> T:
    """`function(path)`; a DataError that names the file where that fails."""
    from densessl.data.decode import printable
    from densessl.errors import DataError

    try:
        return function(images.name(index))
    except OSError as error:
        raise DataError(f"cannot read {printable(images.name(index))}: {error.strerror}") from error


def _file_bytes(path: str) -> bytes:
    return Path(path).read_bytes()


def _write(environment: Any, images: "ImageSource", start: float) -> None:
    """Copies the files in batches of COMMIT_BYTES; what an earlier run committed is kept."""
    from densessl.errors import DataError

    pending, total = 0, 0
    transaction = environment.begin(write=True)
    try:
        for index, name in enumerate(images.names):
            kept, data = transaction.get(name), None
            if kept is None or len(kept) != _access(os.path.getsize, images, index):
                data = _access(_file_bytes, images, index)
                transaction.put(name, data)
                pending += len(data)
            total += len(kept if data is None else data)
            if pending >= COMMIT_BYTES:
                transaction.commit()
                transaction, pending = environment.begin(write=True), 0
                _progress(index + 1, len(images), total, start)
        entries = transaction.stat()["entries"] - (transaction.get(META_KEY) is not None)
        if entries != len(images):
            raise DataError(
                f"{entries} entries for {len(images)} images: a list that names a file twice, or a .partial "
                "left by another source; remove it"
            )
        transaction.put(META_KEY, json.dumps({"format": FORMAT, "images": len(images)}).encode())
        transaction.commit()
    except BaseException:
        transaction.abort()
        raise
    _progress(len(images), len(images), total, start)


def _progress(done: int, count: int, total: int, start: float) -> None:
    seconds = max(time.monotonic() - start, 1e-3)
    left = seconds / done * (count - done)
    print(f"{done}/{count} images, {total / 1e9:.2f} GB, {total / 1e6 / seconds:.0f} MB/s, ETA {left:.0f} s")


def _free(path: str) -> str:
    status = os.statvfs(os.path.dirname(os.path.abspath(path)))
    return f"{status.f_bavail * status.f_frsize / 1e9:.2f} GB"


def _sync_folder(path: str) -> None:
    """Makes a rename durable."""
    descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> None:
    args = parse_args()
    # after parsing: `--help` needs no torch
    from densessl.errors import DensesslError

    try:
        count = pack(args.source, args.target, args.root)
    except DensesslError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"{count} images in {args.target}")


if __name__ == "__main__":
    main()
