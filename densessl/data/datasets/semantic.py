"""Photographs with label images, for the evaluation of unsupervised segmentation; and their training images.

Paths are below `DETECTRON2_DATASETS`; trees in datasets/README.md. Curated COCO: the list of images of
xu-ji/IIC and janghyuncho/PiCIE, 49,629 for training and 2,175 for validation. Cityscapes, as PiCIE uses it:
training on test and train_extra without labels, evaluation on val and train together (27 classes).
"""

import os
from collections.abc import Sequence
from glob import glob

import numpy as np

from densessl.data.datasets.builtin import dataset_path
from densessl.data.decode import printable
from densessl.data.sources import FileSource
from densessl.errors import ConfigError, DataError

CURATED_LIST = "Coco164kFull_Stuff_Coarse_7.txt"
# label ids 7 to 33
# fmt: off
CITYSCAPES_CLASSES = (
    "road", "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge",
    "tunnel", "pole", "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person",
    "rider", "car", "truck", "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)
# fmt: on


class SemanticSource(FileSource):
    """Images with a label file each. Records have `file_name`, `image_id` and `sem_seg_file_name`."""

    def __init__(self, root: str, names: Sequence[str], labels: Sequence[str], what: str):
        """
        Args:
            root: folder that both refer to.
            names: of the images.
            labels: of their label images, in the same order.
            what: where the names come from, for messages.

        Raises:
            DataError: no images, or a file is missing.
        """
        super().__init__(root, map(os.fsencode, names), what)
        self.labels = list(labels)
        _require_files(root, {"image": names, "label image": labels}, what)

    def record(self, index: int) -> dict:
        return super().record(index) | {"sem_seg_file_name": os.path.join(self.root, self.labels[index])}


def build_coco_stuff(split: str, root: str | None = None, list_file: str | None = None) -> SemanticSource:
    """COCO with stuffthingmaps.

    Args:
        split: "train2017" or "val2017".
        root: folder with `<split>/*.jpg`, `stuffthingmaps/<split>/*.png` and `curated/<split>/`; None:
            `coco` below DETECTRON2_DATASETS.
        list_file: ids of images, one per line; None: the curated list; "all": every label image.

    Raises:
        ConfigError: another split.
        DataError: missing files.
    """
    root, ids, what = _coco_ids(split, root, list_file)
    images = [f"{split}/{image}.jpg" for image in ids]
    return SemanticSource(root, images, [f"stuffthingmaps/{split}/{image}.png" for image in ids], what)


def build_curated_coco(split: str, root: str | None = None, list_file: str | None = None) -> FileSource:
    """The images alone of `build_coco_stuff`, for training: label images need not be there.

    Raises:
        ConfigError: another split.
        DataError: no list, or an image is missing.
    """
    root, ids, what = _coco_ids(split, root, list_file)
    images = [f"{split}/{image}.jpg" for image in ids]
    _require_files(root, {"image": images}, what)
    return FileSource(root, map(os.fsencode, images), what)


def _coco_ids(split: str, root: str | None, list_file: str | None) -> tuple[str, list[str], str]:
    """Root, ids, and where these come from."""
    if split not in ("train2017", "val2017"):
        raise ConfigError(f"COCO-Stuff has train2017 and val2017, not {split!r}.")
    root = dataset_path("coco") if root is None else os.path.expanduser(root)
    if list_file == "all":
        what = os.path.join(root, "stuffthingmaps", split)
        return root, sorted(os.path.basename(path)[:-4] for path in glob(os.path.join(what, "*.png"))), what
    what = list_file or os.path.join(root, "curated", split, CURATED_LIST)
    return root, read_ids(what), what


def read_ids(list_file: str) -> list[str]:
    """Ids of a curated list, in its order.

    Raises:
        DataError: the list cannot be read, or a line is no id of 12 digits; names the line.
    """
    try:
        with open(list_file) as stream:
            lines = stream.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the image list {printable(list_file)}: {error}. Copy PiCIE's curated lists there, "
            "build one with datasets/prepare_coco_stuff.py, or give list_file=all"
        ) from error
    ids = [line.strip() for line in lines]
    for number, line in enumerate(ids, 1):
        if line and not (len(line) == 12 and line.isdigit()):
            raise DataError(f"{printable(list_file)}, line {number}: {line!r} is no COCO id of 12 digits")
    return [line for line in ids if line]


def build_cityscapes(splits: Sequence[str] = ("val", "train"), root: str | None = None) -> SemanticSource:
    """Cityscapes with fine labels, 3,475 images for the default.

    Args:
        splits: of gtFine.
        root: folder with `leftImg8bit/` and `gtFine/`; None: `cityscapes` below DETECTRON2_DATASETS.

    Raises:
        DataError: missing files.
    """
    root = dataset_path("cityscapes") if root is None else os.path.expanduser(root)
    images, labels = [], []
    for split in splits:
        for path in sorted(glob(os.path.join(root, "leftImg8bit", split, "*", "*_leftImg8bit.png"))):
            name = os.path.relpath(path, root)
            images.append(name)
            labels.append(
                name.replace("leftImg8bit", "gtFine", 1).replace("_leftImg8bit", "_gtFine_labelIds")
            )
    return SemanticSource(root, images, labels, f"Cityscapes {', '.join(splits)} in {printable(root)}")


def cityscapes_27_labels(ids: np.ndarray) -> np.ndarray:
    """Label ids 7 .. 33 -> 0 .. 26, all others 255 (PiCIE data/cityscapes_eval_dataset.py); (h, w) uint8."""
    return np.where((ids >= 7) & (ids <= 33), ids - 7, 255).astype(np.uint8)


def _require_files(root: str, kinds: dict[str, Sequence[str]], what: str) -> None:
    """Raises DataError unless all files are there; reads each folder once."""
    known: dict[str, set[str]] = {}

    def exists(path: str) -> bool:
        folder, name = os.path.split(os.path.join(root, path))
        if folder not in known:
            known[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return name in known[folder]

    for kind, paths in kinds.items():
        missing = [path for path in paths if not exists(path)]
        if missing:
            raise DataError(
                f"{what}: {len(missing)} of {len(paths)} {kind}s are missing below {printable(root)}, the "
                f"first: {printable(missing[0])}. Finish the copy; datasets/README.md shows the tree"
            )
