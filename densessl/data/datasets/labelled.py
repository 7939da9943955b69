"""Photographs with one class each: a folder per class, or a list of paths.

ImageNet-1k's tree is `imagenet/train/<wnid>/*.JPEG` and `imagenet/val/<wnid>/*.JPEG`, or a flat
`imagenet/val/` with a list of "name number" lines (mmselfsup `meta/val.txt`, OpenSelfSup
`meta/val_labeled.txt`). The number of a class is its place among the class names in byte order, which is the
order of torchvision's ImageFolder and of Caffe's ImageNet lists; densessl/data/sources.py has the sources
without labels.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from densessl.data.datasets.builtin import dataset_path
from densessl.data.decode import printable
from densessl.data.sources import IMAGE_EXTENSIONS, FileSource, ImageSource, scan_folder
from densessl.errors import DataError


class _Place(NamedTuple):
    """Paths below the root of all data sets: images, the folder that has the classes, a list of the "
    "images."""

    images: str
    classes: str
    listed: str | None = None


LABELLED = {
    "imagenet_1k_train": _Place("imagenet/train", "imagenet/train"),
    "imagenet_1k_val": _Place("imagenet/val", "imagenet/train"),
    "imagenet_1k_val_list": _Place("imagenet/val", "imagenet/train", "imagenet/meta/val.txt"),
    "imagenet_1k_train_1pct": _Place("imagenet/train", "imagenet/train", "imagenet/meta/train_1pct.txt"),
    "imagenet_1k_train_10pct": _Place("imagenet/train", "imagenet/train", "imagenet/meta/train_10pct.txt"),
    "textures_train": _Place("textures/train", "textures/train"),
    "textures_val": _Place("textures/val", "textures/train"),
}


class LabelledSource(FileSource):
    """Image files and their class numbers.

    Records have `file_name`, `image_id` (the name below the root) and `label`, an int in [0, C).
    """

    def __init__(self, root: str, names: Sequence[bytes], labels: Sequence[int], classes: Sequence[str]):
        """
        Args:
            root: folder that the names refer to.
            names: of N files.
            labels: N class numbers.
            classes: C class names, by number.
        """
        super().__init__(root, names, f"folder {printable(root)}")
        self.labels = np.asarray(labels, np.int64)
        self.classes = list(classes)

    def record(self, index: int) -> dict:
        return {**super().record(index), "label": int(self.labels[index])}

    def names_digest(self) -> str:
        """sha256 of names, classes and labels: a resumed run must see the same ones."""
        content = hashlib.sha256(super().names_digest().encode())
        content.update("\n".join(self.classes).encode("utf-8", "surrogateescape") + self.labels.tobytes())
        return content.hexdigest()


def build_labelled_source(
    source: str,
    classes: str | None = None,
    list_file: str | None = None,
    num_classes: int | None = None,
) -> LabelledSource:
    """Opens a labelled set of images.

    Args:
        source: a name of `LABELLED`, or a folder.
        classes: what the class names are read from, a name of `LABELLED` or a folder with a folder per class
            (the training set, when `source` is a validation set); None: `source` itself.
        list_file: takes only these images. One per line: `<class>/<file>`, or `<class>_<rest of the name>`
            for the file in that class's folder (SimCLR's `imagenet_subsets/1percent.txt`), or `<file>
            <number>` with the class's number. A number after a path with its class must agree with it.
        num_classes: C that the model expects (`"${model.num_classes}"`).

    Raises:
        DataError: missing folders or files, fewer than two classes, an unknown class, or another number of
            classes than the model has. Names the file and line.
    """
    known, root = LABELLED.get(source), _path(source)
    if classes is not None:
        class_root = _path(classes)
    else:
        class_root = dataset_path(known.classes) if known else root
    if list_file is not None:
        list_file = os.path.expanduser(list_file)
    elif known and known.listed:
        list_file = dataset_path(known.listed)
    names = class_names(class_root)
    if num_classes is not None and len(names) != num_classes:
        raise DataError(
            f"{printable(class_root)} has {len(names)} class folders ({', '.join(names[:3])} ...), and the "
            f"model {num_classes} classes: set model.num_classes={len(names)}, or give the folder of the "
            "right data set"
        )
    pairs = _listed(list_file, root, names) if list_file else _foldered(root, names, class_root)
    files, labels = zip(*pairs)
    return LabelledSource(root, files, labels, names)


def _path(source: str) -> str:
    """Folder of a name of `LABELLED`, or of a path."""
    return dataset_path(LABELLED[source].images) if source in LABELLED else os.path.expanduser(source)


def class_names(root: str) -> list[str]:
    """Names of the folders in `root`, in byte order; hidden ones are left out.

    Raises:
        DataError: no such folder, or fewer than two folders in it.
    """
    try:
        with os.scandir(os.fsencode(root)) as entries:
            found = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(b"."))
    except OSError as error:
        where = os.environ.get("DETECTRON2_DATASETS", "datasets (the default)")
        raise DataError(
            f"cannot read the class folders of {printable(root)}: {error.strerror}. DETECTRON2_DATASETS = "
            f"{where}; names: {', '.join(LABELLED)}; datasets/README.md shows the tree"
        ) from error
    if len(found) < 2:
        raise DataError(
            f"{printable(root)} has {len(found)} folder(s), and classification needs one for each of two "
            "classes or more: <root>/<class>/<image>. Is it the folder above or below?"
        )
    return [os.fsdecode(name) for name in found]


def _foldered(root: str, classes: Sequence[str], class_root: str) -> list[tuple[bytes, int]]:
    """(name, class number) of every image below the class folders of `root`, by name."""
    number = {os.fsencode(name): index for index, name in enumerate(classes)}
    pairs = []
    for name in sorted(scan_folder(root)):
        first, separator, _ = name.partition(os.sep.encode())
        if not separator:
            raise DataError(
                f"{printable(os.path.join(os.fsencode(root), name))} lies outside the class folders. Move "
                "it, or give a list of names and class numbers (dataset.list_file)"
            )
        if first not in number:
            raise DataError(
                f"{printable(root)}: class {printable(first)!r} is not among the {len(classes)} classes of "
                f"{printable(class_root)}. Training and validation must have the same class folders"
            )
        pairs.append((name, number[first]))
    if not pairs:
        raise DataError(f"{printable(root)} has class folders, but no image in them")
    empty = set(classes) - {classes[label] for _, label in pairs}
    if empty and os.path.samefile(root, class_root):
        raise DataError(
            f"{printable(root)}: {len(empty)} class folder(s) without an image, e.g. {min(empty)!r}. Finish "
            "the copy, or remove them"
        )
    return pairs


def _listed(list_file: str, root: str, classes: Sequence[str]) -> list[tuple[bytes, int]]:
    """(name, class number) of every line of a list, in its order."""
    try:
        with open(list_file, "rb") as stream:
            lines = stream.read().splitlines()
    except OSError as error:
        raise DataError(f"cannot read the image list {printable(list_file)}: {error.strerror}") from error
    number = {os.fsencode(name): index for index, name in enumerate(classes)}
    pairs = []
    for position, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        try:
            pairs.append(_parse(line.strip(), number))
        except DataError as error:
            raise DataError(f"{printable(list_file)}, line {position}: {error}") from error
    if not pairs:
        raise DataError(f"the image list {printable(list_file)} is empty")
    _check_listed(pairs, list_file, root)
    return pairs


def _parse(line: bytes, number: dict[bytes, int]) -> tuple[bytes, int]:
    name, _, last = line.rpartition(b" ")
    label = None
    if name and last.isdigit() and name.strip().lower().endswith(IMAGE_EXTENSIONS):
        line, label = name.strip(), int(last)
        if label >= len(number):
            raise DataError(f"class number {label}, and there are {len(number)} classes, counted from 0")
    folder, _, _ = line.rpartition(b"/")
    stem = line.rpartition(b"_")[0]
    if not folder and label is None:
        if stem not in number:
            raise DataError(
                f"{printable(line)} has neither a class folder of the data set nor a class number"
            )
        folder, line = stem, stem + b"/" + line
    own = number.get(folder.partition(b"/")[0])
    if own is None and (label is None or folder):
        raise DataError(f"class {printable(folder)!r} is not a class folder of the data set")
    if own is not None and label is not None and own != label:
        raise DataError(
            f"class number {label} after {printable(line)}, whose class is number {own} in the order of the "
            "class folders' names: the list counts in another order"
        )
    return line, own if own is not None else label


def _check_listed(pairs: Sequence[tuple[bytes, int]], list_file: str, root: str) -> None:
    """Looks for a sample of the files (all up to 2000)."""
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), 2000)).astype(np.int64)).tolist()
    missing = [
        n for n in (pairs[i][0] for i in chosen) if not os.path.exists(os.path.join(os.fsencode(root), n))
    ]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(chosen)} files looked for of {printable(list_file)} are not in "
            f"{printable(root)}, the first: {printable(missing[0])}"
        )


class ReferenceAndQuery(ImageSource):
    """Two labelled sets one after the other, for nearest neighbours.

    Records have `index`, the place in this sequence, and `is_query`, True for those of `query`.
    """

    def __init__(self, reference: LabelledSource, query: LabelledSource):
        """
        Raises:
            DataError: their classes differ.
        """
        if reference.classes != query.classes:
            raise DataError(
                f"the reference images of {printable(reference.root)} have {len(reference.classes)} classes, "
                f"the queries of {printable(query.root)} {len(query.classes)}, and not the same ones: give "
                "dataset.query.classes the training set"
            )
        self.parts = (reference, query)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def _locate(self, index: int) -> tuple[bool, int]:
        is_query = index >= len(self.parts[0])
        return is_query, index - (len(self.parts[0]) if is_query else 0)

    def record(self, index: int) -> dict:
        is_query, inner = self._locate(index)
        return {**self.parts[is_query].record(inner), "index": index, "is_query": is_query}

    def name(self, index: int) -> str:
        is_query, inner = self._locate(index)
        return self.parts[is_query].name(inner)

    def names_digest(self) -> str:
        return hashlib.sha256("".join(part.names_digest() for part in self.parts).encode()).hexdigest()
