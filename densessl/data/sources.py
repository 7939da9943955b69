"""Unlabelled images from folders, list files, d2 dataset names, LMDB files and tar shards.

Every source is a sequence of records `{"file_name", "image_id"}` (packed sources add "image_bytes", read
when the record is asked for, in the worker). Names lie in packed arrays, and their order is that of their
bytes: it depends neither on the file system nor on the locale.
"""

import difflib
import glob
import hashlib
import os
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
from torch.utils.data import Dataset

from densessl.data.datasets import register_datasets
from densessl.data.decode import printable
from densessl.data.records import PackedNames
from densessl.data.samplers import check_not_empty
from densessl.errors import ConfigError, DataError

IMAGE_EXTENSIONS = tuple(
    b".jpg .jpeg .jfif .png .webp .bmp .tif .tiff .gif .ppm .pgm .avif".split()  # compared in lower case
)
# Files of a list that are looked for at start; a list of 1 M files on network storage takes minutes.
MAX_CHECKED = 2000


class ImageSource(Dataset):
    """A sequence of image records with packed names.

    A torch Dataset, so that `DatasetCatalog` may return one: detectron2's `get_detection_dataset_dicts`
    passes it on unchanged.
    """

    names: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict:
        """The record of image `index`, 0 <= index < N."""
        return self.record(index)

    @abstractmethod
    def record(self, index: int) -> dict:
        """`file_name` (str, undecodable bytes as surrogates), `image_id`, and `image_bytes` if packed."""

    def name(self, index: int) -> str:
        """What to call image `index` in messages and lists."""
        return os.fsdecode(self.names[index])

    def names_digest(self) -> str:
        """sha256 of the names in their order, hex. Names are relative: moving the root changes nothing."""
        return self.names.digest()


class FileSource(ImageSource):
    """Image files by their names below `root`."""

    def __init__(self, root: str, names: Iterable[bytes], what: str):
        """
        Args:
            root: folder that relative names refer to.
            names: of the files.
            what: holds them; for messages.
        """
        self.root = root
        self.names = PackedNames(names)
        check_not_empty(len(self), what)

    def name(self, index: int) -> str:
        return os.path.join(self.root, super().name(index))

    def record(self, index: int) -> dict:
        return {"file_name": self.name(index), "image_id": os.fsdecode(self.names[index])}


class FolderSource(FileSource):
    """All images below a folder, however deep; hidden files and folders are left out."""

    def __init__(self, root: str, extensions: Sequence[bytes] = IMAGE_EXTENSIONS):
        """
        Args:
            root: the folder; `~` is expanded.
            extensions: lower-case endings that make a file an image.

        Raises:
            DataError: no such folder, no permission, or no image in it.
        """
        root = os.path.expanduser(root)
        super().__init__(root, sorted(scan_folder(root, tuple(extensions))), f"folder {printable(root)}")


class ListSource(FileSource):
    """The images named in a text file, one path per line, relative to `root` or absolute, in its order.

    Blank lines and lines that begin with `#` are left out. Spaces belong to the name; a second column
    (a label) is refused. Names that contain a newline cannot be listed: use the folder.
    """

    def __init__(self, list_file: str, root: str | None = None):
        """
        Args:
            list_file: the text file, any encoding of the names.
            root: folder of the images; None: the folder of the list.

        Raises:
            DataError: the list cannot be read, is empty, has a second column, or names missing files (all
                are looked for up to 2000, else 2000 spread evenly).
        """
        list_file = os.path.expanduser(list_file)
        root = os.path.dirname(list_file) if root is None else os.path.expanduser(root)
        try:
            with open(list_file, "rb") as stream:
                lines = stream.read().splitlines()
        except OSError as error:
            raise DataError(f"cannot read the image list {printable(list_file)}: {error.strerror}") from error
        super().__init__(root, _listed_names(lines, list_file), f"image list {printable(list_file)}")
        self._check_files(list_file)

    def _check_files(self, list_file: str) -> None:
        chosen = np.unique(np.linspace(0, len(self) - 1, min(len(self), MAX_CHECKED)).astype(np.int64))
        missing = [name for name in map(self.name, chosen.tolist()) if not os.path.exists(name)]
        if missing:
            first = ", ".join(printable(name) for name in missing[:3])
            raise DataError(
                f"{len(missing)} of {len(chosen)} files looked for in {printable(list_file)} do not exist, "
                f"the first: {first}. Paths are relative to {printable(self.root) or '.'}: set root"
            )


class RecordsSource(ImageSource):
    """The images of annotated d2 records, without their annotations."""

    def __init__(self, records: Sequence[dict], what: str):
        """
        Args:
            records: d2 dataset dicts with `file_name` and `image_id`.
            what: the data set's name, for messages.
        """
        check_not_empty(len(records), f"data set {what}")
        self.names = PackedNames(os.fsencode(record["file_name"]) for record in records)
        ids = [record.get("image_id", index) for index, record in enumerate(records)]
        self._numbers = np.array(ids, np.int64) if all(isinstance(i, int) for i in ids) else None
        self._texts = PackedNames(str(i).encode() for i in ids) if self._numbers is None else None

    def record(self, index: int) -> dict:
        image_id = self._texts[index].decode() if self._numbers is None else int(self._numbers[index])
        return {"file_name": self.name(index), "image_id": image_id}

    def names_digest(self) -> str:
        """sha256 of the image ids and the last path components, hex: the root may move."""
        content = hashlib.sha256()
        for index, name in enumerate(self.names):
            content.update(
                os.path.basename(name) + b"\n" + str(self.record(index)["image_id"]).encode() + b"\n"
            )
        return content.hexdigest()


class ConcatSource(ImageSource):
    """Several sources one after the other, in the order given."""

    def __init__(self, parts: Sequence[ImageSource]):
        if not parts:
            raise ConfigError("an empty list of image sources: name at least one folder, list or data set")
        self.parts = list(parts)
        self._ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def _find(self, index: int) -> tuple[ImageSource, int]:
        part = bisect_right(self._ends, index)
        if index < 0 or part == len(self.parts):
            raise IndexError(f"image {index} of {len(self)}")
        return self.parts[part], index - (self._ends[part - 1] if part else 0)

    def record(self, index: int) -> dict:
        part, inner = self._find(index)
        return part.record(inner)

    def name(self, index: int) -> str:
        part, inner = self._find(index)
        return part.name(inner)

    def names_digest(self) -> str:
        return hashlib.sha256("".join(part.names_digest() for part in self.parts).encode()).hexdigest()


def build_image_source(source: str | Sequence[str], root: str | None = None) -> ImageSource:
    """Opens whatever `source` names.

    Args:
        source: one of, or a list of, in this order of recognition:
            a name in detectron2's DatasetCatalog (coco_2017_train, voc_2007_trainval, imagenet_1k_train);
            `*.tar`, also as a pattern (`shards/train-*.tar`), or a folder that holds only tar files;
            an LMDB: a file `*.lmdb`, `*.mdb`, or a folder with `data.mdb`;
            any other folder: all images below it;
            any other file: a list of images.
        root: folder that the paths of list files refer to; None: the folder of the list.

    Raises:
        DataError: not found, empty or unreadable.
        ConfigError: not a string or list of strings.
    """
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        parts = [build_image_source(part, root) for part in source]
        return parts[0] if len(parts) == 1 else ConcatSource(parts)
    if not isinstance(source, str) or not source:
        raise ConfigError(f"image source {source!r} must be a path, a data set name, or a list of them")
    # at call: packed sources import this module
    from densessl.data.packed_sources import LmdbSource, TarSource, find_shards

    path = os.path.expanduser(source)
    if os.sep not in source and not os.path.exists(path):
        registered = _registered(source)
        if registered is not None:
            return registered
        if not glob.has_magic(source):
            raise DataError(
                f"{printable(source)} is neither a path nor a registered data set.{_nearest_name(source)}"
            )
    shards = find_shards(path)
    if shards:
        return TarSource(shards)
    if path.endswith((".lmdb", ".mdb")) or os.path.exists(os.path.join(path, "data.mdb")):
        return LmdbSource(path)
    if os.path.isfile(path):
        return ListSource(path, root)
    return FolderSource(path)


def _registered(name: str) -> ImageSource | None:
    """The images of a registered data set; None if there is none of that name."""
    from detectron2.data import DatasetCatalog

    register_datasets()
    if name not in DatasetCatalog:
        return None
    try:
        records = DatasetCatalog.get(name)
    except OSError as error:
        raise DataError(
            f"data set {name!r}: {error.strerror or error}: {printable(error.filename or '?')}. "
            f"DETECTRON2_DATASETS = {os.environ.get('DETECTRON2_DATASETS', 'datasets (the default)')}; "
            "datasets/README.md shows the expected tree"
        ) from error
    return records if isinstance(records, ImageSource) else RecordsSource(records, name)


def _nearest_name(name: str) -> str:
    from detectron2.data import DatasetCatalog

    close = difflib.get_close_matches(name, DatasetCatalog.list(), n=3)
    return f" Nearest: {', '.join(close)}." if close else " datasets/README.md lists the names."


def scan_folder(root: str, extensions: tuple[bytes, ...] = IMAGE_EXTENSIONS) -> Iterator[bytes]:
    """Yields the images below `root` as byte paths relative to it, in no particular order of the folders.

    Symbolic links are followed; a folder reached a second time (a loop, or two links to one place) is not
    entered again, so no image counts twice. Which of two ways in wins is decided by byte order.

    Raises:
        DataError: `root` or a folder below it cannot be read.
    """
    try:
        os.stat(root)
    except FileNotFoundError as error:
        raise DataError(
            f"{printable(root)} does not exist: check the path (relative ones start at the current directory)"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read the folder {printable(root)}: {error.strerror}") from error
    entered: set[tuple[int, int]] = set()
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        path = os.path.join(os.fsencode(root), folder)
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(b".")]
            folders = [entry.name for entry in visible if entry.is_dir()]
        except OSError as error:
            raise DataError(
                f"cannot read the folder {printable(path)}: {error.strerror}. Mend its permissions, or move "
                "it out of the data set"
            ) from error
        found = set(folders)
        for entry in visible:
            if entry.name not in found and entry.name.lower().endswith(extensions):
                yield os.path.join(folder, entry.name)
        waiting += [os.path.join(folder, name) for name in sorted(folders, reverse=True)]


def _listed_names(lines: Iterable[bytes], list_file: str) -> Iterator[bytes]:
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name or name.startswith(b"#"):
            continue
        first, _, rest = name.rpartition(b"\t" if b"\t" in name else b" ")
        if first.rstrip().lower().endswith(IMAGE_EXTENSIONS) and not rest.lower().endswith(IMAGE_EXTENSIONS):
            raise DataError(
                f"{printable(list_file)}, line {number} has a second column {printable(rest)!r}: one path "
                "per line and nothing else (cut -d' ' -f1 removes labels)"
            )
        yield name
