"""The images that diagnostics look at, with whatever labels they need, read once.

Images are squeezed into squares, so that all go through the trunk together; an IoU does not change when an
axis is scaled. N images, S pixels a side, B objects of an image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from torch import Tensor

from densessl.data.datasets import register_datasets
from densessl.data.datasets.guard import guard_annotations
from densessl.data.datasets.sample_writer import segmentation_to_mask
from densessl.data.decode import decode_image, printable
from densessl.data.sources import build_image_source
from densessl.errors import DataError

SEMANTIC, CLASS, BOXES = "semantic labels", "image classes", "object boxes"
IGNORE = 255
NO_CLASS = -1


@dataclass(frozen=True)
class ProbeImages:
    """Attributes:
    photographs: N arrays (H, W, 3) uint8 RGB, as decoded.
    images: (N, 3, S, S) uint8 RGB.
    labels: (N, S, S) uint8 or int64 class of each pixel, IGNORE where unknown; None if not asked for.
    num_classes: K of `labels`.
    classes: (N,) int64 class of each image, NO_CLASS where it has none; None if not asked for.
    boxes: N arrays (B, 4) of (x0, y0, x1, y1) in shares of width and height; None if not asked for.
    """

    photographs: list[np.ndarray]
    images: Tensor
    labels: np.ndarray | None = None
    num_classes: int = 0
    classes: np.ndarray | None = None
    boxes: list[np.ndarray] | None = None


def square(image: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (size, size, 3), each axis scaled by itself."""
    shrinks = max(image.shape[:2]) > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def stack_images(images: Sequence[np.ndarray]) -> Tensor:
    """N arrays (S, S, 3) -> (N, 3, S, S)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def open_records(source: str) -> tuple[Sequence[dict], Metadata | None]:
    """Records with their labels, and metadata, of a registered data set; of a folder or list just the images.

    Raises:
        DataError: neither a registered name nor a readable path.
    """
    register_datasets()
    if source in DatasetCatalog:
        guard_annotations(source)
        return DatasetCatalog.get(source), MetadataCatalog.get(source)
    return build_image_source(source), None


def load_images(source: str, count: int, size: int, needs: Collection[str] = ()) -> ProbeImages:
    """Reads `count` images, spread evenly over the data set; all of it where it has fewer.

    Args:
        source: name of a registered data set, or a path (then without labels).
        size: S.
        needs: some of SEMANTIC, CLASS, BOXES.

    Raises:
        DataError: not found, unreadable, or without labels that are needed; the message names what lacks.
    """
    all_records, metadata = open_records(source)
    places = np.linspace(0, len(all_records) - 1, min(count, len(all_records))).round().astype(int)
    records = [all_records[int(place)] for place in places]
    # labels are in pixels of the full size; without any, large JPEGs are decoded at a fraction of it
    photographs = [decode_image(record, min_size=None if needs else 2 * size) for record in records]
    labels, num_classes, classes, boxes = None, 0, None, None
    if SEMANTIC in needs or (CLASS in needs and "label" not in records[0]):
        names = _semantic_names(source, records, metadata)
        num_classes = len(names)
        sized = zip(records, photographs, strict=True)
        maps = [_semantic_labels(record, image.shape[:2], size, num_classes) for record, image in sized]
        labels = np.stack(maps)
        _require(source, SEMANTIC, (labels != IGNORE).any())
    if CLASS in needs:
        if "label" in records[0]:
            classes = np.array([record["label"] for record in records], np.int64)
        else:
            classes = np.array([_largest_class(part, names) for part in labels], np.int64)
        _require(source, CLASS, (classes != NO_CLASS).any())
    if BOXES in needs:
        _require(source, BOXES, all("annotations" in record for record in records))
        sized = zip(records, photographs, strict=True)
        boxes = [_boxes(record, image.shape[:2]) for record, image in sized]
        _require(source, BOXES, any(map(len, boxes)))
    images = stack_images([square(image, size) for image in photographs])
    return ProbeImages(photographs, images, labels, num_classes, classes, boxes)


def _require(source: str, what: str, present: bool) -> None:
    if not present:
        raise DataError(
            f"diagnostics: data set {source!r} has no {what}. Name one that has (coral_val, cutpaste_val, "
            "...), or choose diagnostics that need none (docs/diagnostics.md lists what each needs)."
        )


def _semantic_names(source: str, records: Sequence[dict], metadata: Metadata | None) -> list[str]:
    """Class names by label; a map drawn from instances has 0 for background."""
    if metadata is not None and all("sem_seg_file_name" in record for record in records):
        names = getattr(metadata, "stuff_classes", None)
        _require(source, SEMANTIC, names)
        return list(names)
    drawable = all("segmentation" in one for record in records for one in record.get("annotations", [{}]))
    _require(source, SEMANTIC, metadata is not None and drawable)
    return ["background", *metadata.thing_classes]


def _semantic_labels(record: dict, image_size: tuple[int, int], size: int, num_classes: int) -> np.ndarray:
    """(size, size) class of each pixel."""
    if "sem_seg_file_name" not in record:
        labels = _drawn_instances(record, image_size)
    else:
        path = record["sem_seg_file_name"]
        try:
            labels = np.asarray(Image.open(path))
        except OSError as error:
            raise DataError(f"cannot read the label map {printable(path)}: {error}") from error
        values = np.unique(labels)
        wrong = values[(values >= num_classes) & (values != IGNORE)]
        if labels.ndim != 2 or len(wrong):
            raise DataError(
                f"{printable(path)}: a label map has one channel with values below {num_classes} or {IGNORE};"
                f" this one has shape {labels.shape} and values {wrong[:5].tolist()}"
            )
    return cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST)


def _drawn_instances(record: dict, image_size: tuple[int, int]) -> np.ndarray:
    """(H, W) int32: category + 1, 0 where no instance is; smaller instances on top."""
    labels = np.zeros(image_size, np.int32)
    instances = [one for one in record["annotations"] if not one.get("iscrowd", 0)]
    masks = [segmentation_to_mask(one["segmentation"], *image_size) for one in instances]
    for index in sorted(range(len(masks)), key=lambda i: -masks[i].sum()):
        labels[masks[index]] = instances[index]["category_id"] + 1
    return labels


def _largest_class(labels: np.ndarray, names: Sequence[str]) -> int:
    """The class that covers most of an image, background aside."""
    areas = np.bincount(labels[labels != IGNORE], minlength=len(names))
    if names[0] == "background":
        areas[0] = 0
    return int(areas.argmax()) if areas.any() else NO_CLASS


def _boxes(record: dict, image_size: tuple[int, int]) -> np.ndarray:
    """(B, 4) shares of width and height; crowds are left out."""
    height, width = image_size
    found = [
        BoxMode.convert(list(one["bbox"]), one["bbox_mode"], BoxMode.XYXY_ABS)
        for one in record["annotations"]
        if not one.get("iscrowd", 0)
    ]
    return np.array(found, np.float64).reshape(-1, 4) / [width, height, width, height]
