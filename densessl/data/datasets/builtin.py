"""Unlabelled photographs of the public data sets under names, registered when this module is imported.

Paths are below `DETECTRON2_DATASETS` (default `./datasets`, as detectron2); the variable is read when a data
set is opened. Annotated sets (coco_2017_train, voc_2007_trainval, lvis_v1_train, cityscapes_...) are
detectron2's own names. Trees: datasets/README.md.
"""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog

from densessl.data.sources import FolderSource, ImageSource, ListSource
from densessl.errors import DataError

# name -> folder below the root: every image in it, however deep
FOLDERS = {
    "imagenet_1k_train": "imagenet/train",  # 1 281 167 images
    "imagenet_1k_val": "imagenet/val",  # 50 000
    "coco_2014_train_images": "coco/train2014",  # 82 783
    "coco_2017_train_images": "coco/train2017",  # 118 287; no annotation file needed
    "coco_2017_val_images": "coco/val2017",  # 5 000
    "coco_2017_unlabeled": "coco/unlabeled2017",  # 123 403
    "cityscapes_train_images": "cityscapes/leftImg8bit/train",  # 2 975
    "cityscapes_test_images": "cityscapes/leftImg8bit/test",  # 1 525
    "cityscapes_train_extra_images": "cityscapes/leftImg8bit/train_extra",  # 19 998
}
# name -> (list of paths, folder they are relative to)
LISTS = {"imagenet_100_train": ("imagenet/meta/imagenet_100_train.txt", "imagenet/train")}


def dataset_path(relative: str) -> str:
    """A path below the folder of all data sets."""
    return os.path.join(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")), relative)


def open_builtin(name: str) -> ImageSource:
    """The images of one of the names above.

    Raises:
        DataError: the files are not where they should be.
    """
    try:
        if name in LISTS:
            list_file, root = LISTS[name]
            return ListSource(dataset_path(list_file), dataset_path(root))
        return FolderSource(dataset_path(FOLDERS[name]))
    except DataError as error:
        where = os.environ.get("DETECTRON2_DATASETS", "datasets (the default)")
        raise DataError(
            f"data set {name!r}: {error}. DETECTRON2_DATASETS = {where}; datasets/README.md shows the tree"
        ) from error


def register_builtin() -> None:
    """Registers all names; a name that the user has registered first is left alone."""
    for name in [*FOLDERS, *LISTS]:
        if name not in DatasetCatalog:
            DatasetCatalog.register(name, lambda name=name: open_builtin(name))
            MetadataCatalog.get(name).set(evaluator_type=None)


register_builtin()
