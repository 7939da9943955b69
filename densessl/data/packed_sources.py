"""Images packed into LMDB files and tar shards, read in place by (file, position).

Shards are indexed once and then read at random, instead of streamed with the webdataset package: the order
is then the same function of (seed, step) as for folders, a resume is exact, shuffling covers the whole set
and not a buffer of it, and any number of shards serves any number of workers. The price is one read of all
headers, at the first start (densessl/data/tar_index.py). Nothing of a shard is ever written to disk, so a
member named `../x` has no place to escape to; it is left out all the same.
"""

import glob
import logging
import os
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from densessl.data.decode import printable
from densessl.data.records import PackedNames
from densessl.data.samplers import check_not_empty
from densessl.data.sources import ImageSource
from densessl.data.tar_index import index_shard
from densessl.errors import DataError

LMDB_META_PREFIX = b"__"  # keys that are not images
MAX_OPEN_SHARDS = 64  # per process; the usual limit is 1024 files

logger = logging.getLogger(__name__)
_environments: dict[str, Any] = {}


def _close_environments() -> None:
    while _environments:
        _environments.popitem()[1].close()


# lmdb takes an inherited handle for an open one and refuses to open the file again in the child
os.register_at_fork(before=_close_environments)


class LmdbSource(ImageSource):
    """An LMDB whose keys are names and whose values are image files as they were (tools/folder2lmdb.py).

    Keys that begin with `__` are not images. Opened read-only without a lock file, so read-only mounts and
    stale locks do not matter. A handle must not cross a fork: it is closed before each and opened again on
    the next read, in either process.
    """

    def __init__(self, path: str):
        """
        Args:
            path: a file, or a folder with `data.mdb`.

        Raises:
            DataError: missing, damaged or empty, or the lmdb package is missing.
        """
        self.path = path
        environment = _open_lmdb(path)
        import lmdb

        try:
            with environment.begin() as transaction, transaction.cursor() as cursor:
                keys = cursor.iternext(keys=True, values=False)
                self.names = PackedNames(key for key in keys if not key.startswith(LMDB_META_PREFIX))
        except lmdb.Error as error:
            raise DataError(f"cannot read the keys of LMDB {printable(path)}: {error}") from error
        check_not_empty(len(self), f"LMDB {printable(path)}")

    def name(self, index: int) -> str:
        return f"{self.path}:{super().name(index)}"

    def record(self, index: int) -> dict:
        """Reads the image's bytes too.

        Raises:
            DataError: the entry is gone or the file is damaged.
        """
        import lmdb

        try:
            with _open_lmdb(self.path).begin() as transaction:
                data = transaction.get(self.names[index])
        except lmdb.Error as error:
            raise DataError(f"cannot read {printable(self.name(index))}: {error}") from error
        if data is None:
            raise DataError(f"{printable(self.name(index))} has gone since the start of the run")
        return {"file_name": self.name(index), "image_id": super().name(index), "image_bytes": data}


def _open_lmdb(path: str) -> Any:
    """This process's read-only handle; one per file, since LMDB forbids a second in the same process."""
    try:
        import lmdb
    except ImportError as error:
        raise DataError(f"{printable(path)} is an LMDB: pip install lmdb") from error
    key = os.path.realpath(path)
    if key not in _environments:
        try:
            environment = lmdb.open(
                path, subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False, create=False
            )
        except (lmdb.Error, OSError) as error:
            raise DataError(f"cannot open LMDB {printable(path)}: {error}") from error
        _check_complete(environment, path)
        _environments[key] = environment
    return _environments[key]


def _check_complete(environment: Any, path: str) -> None:
    """Raises DataError for a file that ends too early: reading its missing pages is a bus error."""
    pages, page_size = environment.info()["last_pgno"] + 1, environment.stat()["psize"]
    file = os.path.join(path, "data.mdb") if os.path.isdir(path) else path
    size = os.path.getsize(file)
    if size < pages * page_size:
        environment.close()
        raise DataError(f"LMDB {printable(path)} is truncated: {size} of {pages * page_size} bytes")


class TarSource(ImageSource):
    """The images in uncompressed tar shards (webdataset's layout), in the order of shard and position.

    Members with an image's extension are images; others (.json, .cls, .txt) are not read, so an image
    without its label is no fault. Links, devices, absolute names, names with `..`, and the second of two
    equal names in one shard are left out with a warning.
    """

    def __init__(self, shards: Sequence[str]):
        """
        Args:
            shards: paths of tar files; taken in the order of their bytes.

        Raises:
            DataError: a shard is missing, truncated or compressed, or there is no image.
        """
        self.shards = sorted(map(os.path.expanduser, shards), key=os.fsencode)
        places = array("q")
        left_out: Counter[str] = Counter()
        self.names = PackedNames(self._index(places, left_out))
        if left_out:
            told = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
            logger.warning("Members of tar shards left out: %s", told)
        self._places = np.frombuffer(places, np.int64).reshape(-1, 3)  # shard, offset, bytes
        check_not_empty(len(self), f"{len(self.shards)} tar shard(s), {printable(self.shards[0])} first,")
        self._files: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor
        self._pid = os.getpid()

    def _index(self, places: array, left_out: Counter[str]) -> Iterator[bytes]:
        """Yields the names of all images, and appends (shard, offset, bytes) of each to `places`."""
        for number, shard in enumerate(self.shards):
            base = os.fsencode(os.path.basename(shard))
            names, shard_places, reasons = index_shard(shard)
            left_out.update(reasons)
            for name, (offset, size) in zip(names, shard_places.tolist(), strict=True):
                places.extend((number, offset, size))
                yield base + b"/" + name

    def record(self, index: int) -> dict:
        """Reads the image's bytes too.

        Raises:
            DataError: the shard is gone or has become shorter.
        """
        shard, offset, size = self._places[index].tolist()
        try:
            data = os.pread(self._descriptor(shard), size, offset)
        except OSError as error:
            raise DataError(f"cannot read {printable(self.name(index))}: {error.strerror}") from error
        if len(data) != size:
            raise DataError(f"{printable(self.name(index))}: shard has become shorter since the start")
        name = self.name(index)
        return {"file_name": name, "image_id": super().name(index), "image_bytes": data}

    def name(self, index: int) -> str:
        folder = os.path.dirname(self.shards[int(self._places[index, 0])])
        return os.path.join(folder, super().name(index))

    def _descriptor(self, shard: int) -> int:
        """Open file of a shard; opened by each process itself, the least recently used one closed."""
        if self._pid != os.getpid():
            self._files, self._pid = OrderedDict(), os.getpid()
        if shard not in self._files:
            if len(self._files) >= MAX_OPEN_SHARDS:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self.shards[shard], os.O_RDONLY)
        self._files.move_to_end(shard)
        return self._files[shard]


def find_shards(path: str) -> list[str]:
    """The tar files meant by a path, a pattern, or a folder that holds nothing but tar files; else empty.

    Raises:
        DataError: a pattern that matches nothing, or compressed shards.
    """
    if path.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
        raise DataError(
            f"{printable(path)} is compressed and cannot be read at random: decompress the shards"
        )
    if path.endswith(".tar"):
        if glob.has_magic(path) and not os.path.exists(path):
            shards = glob.glob(path)
            if not shards:
                raise DataError(f"no file matches the shard pattern {printable(path)}")
            return shards
        return [path]
    if os.path.isdir(path):
        entries = [entry for entry in os.listdir(path) if not entry.startswith(".")]
        if entries and all(entry.endswith(".tar") for entry in entries):
            return [os.path.join(path, entry) for entry in entries]
    return []
