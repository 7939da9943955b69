"""Image-level labels of Pascal VOC: which of the classes an image shows.

`<root>/ImageSets/Main/<class>_<split>.txt` has a line "name label" for every image of the split: 1 shows the
class, -1 does not, 0 shows it in objects marked "difficult" only, which is neither right nor wrong. The
numbers are changed to 1, 0 and -1 (ignored), as facebookresearch/fair_self_supervision_benchmark
extra_scripts/create_voc_data_files.py does and the golden targets have them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densessl.data.decode import printable
from densessl.errors import DataError

PRESENT, ABSENT, IGNORED = 1, 0, -1
_MEANING = {"1": PRESENT, "-1": ABSENT, "0": IGNORED}


@dataclass(frozen=True)
class VOCLabels:
    """Labels of one split.

    Args:
        file_names: N image files, in the order of their names.
        labels: int8 (N, K): 1 present, 0 absent, -1 ignored.
        classes: K names, in alphabetical order.
    """

    file_names: list[str]
    labels: np.ndarray
    classes: list[str]

    def records(self) -> list[dict]:
        """d2 records with `file_name` and `image_id`."""
        return [{"file_name": name, "image_id": Path(name).stem} for name in self.file_names]


def load_voc_labels(root: str | Path, split: str) -> VOCLabels:
    """Reads the class files of one split.

    Args:
        root: e.g. `datasets/VOC2007`, with ImageSets/Main and JPEGImages.
        split: "trainval", "test" ...

    Raises:
        DataError: no class files, a line of another form, class files of different images, or missing images.
    """
    folder = Path(root) / "ImageSets" / "Main"
    files = sorted(folder.glob(f"*_{split}.txt"))
    if not files:
        raise DataError(
            f"{folder} has no files <class>_{split}.txt. Give the VOC folder that holds ImageSets and "
            "JPEGImages (datasets/README.md)"
        )
    classes = [path.name.removesuffix(f"_{split}.txt") for path in files]
    columns = [_read_class_file(path) for path in files]
    names = sorted(columns[0])
    for path, column in zip(files, columns, strict=True):
        if column.keys() != columns[0].keys():
            other = sorted(column.keys() ^ columns[0].keys())
            raise DataError(
                f"{path} and {files[0].name} list different images, e.g. {printable(other[0])}; each class "
                f"file has all images of {split}"
            )
    labels = np.array([[column[name] for column in columns] for name in names], np.int8)
    images = [Path(root) / "JPEGImages" / f"{name}.jpg" for name in names]
    missing = [str(path) for path in images if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images of {split} are missing, the first: "
            f"{printable(missing[0])}"
        )
    return VOCLabels([str(path) for path in images], labels, classes)


def _read_class_file(path: Path) -> dict[str, int]:
    labels: dict[str, int] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 2 or fields[1] not in _MEANING:
            raise DataError(
                f"{path}, line {number}: {printable(line)!r} is not 'name label' with label -1, 0 or 1"
            )
        if fields[0] in labels:
            raise DataError(f"{path}, line {number}: image {printable(fields[0])} is listed twice")
        labels[fields[0]] = _MEANING[fields[1]]
    if not labels:
        raise DataError(f"{path} is empty")
    return labels
