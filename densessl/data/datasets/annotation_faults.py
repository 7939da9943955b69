"""Finds what is wrong in a COCO or LVIS annotation document, entry by entry.

Format: https://cocodataset.org/#format-data. What published files need: COCO's instances_train2017.json has
two boxes of height 0 among 860,001 (cocoapi issue 355: annotation 918 of image 200365, and image 550395);
boxes are rounded to hundredths of a pixel. Such entries harm nothing, since detectron2's mapper clips boxes
and leaves empty ones out (`filter_empty_instances`) and its loader leaves short polygons out: BLEMISHES.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from densessl.data.datasets.lvis import lvis_file_name
from densessl.errors import DataError

OVERHANG = 2.0  # pixels; conventions that count corners from 1 and include the last pixel differ by that much
# Kinds of faults; what is left out is counted by them.
KEYS, IDS, TWICE = "keys missing", "ids that are no whole numbers or texts", "ids that occur twice"
SIZE = "image sizes that are not positive"
IMAGE, CATEGORY = "image ids that no image has", "category ids that no category has"
OF_FAULTY = "annotations of faulty images"
NUMBERS = "boxes that are not four finite numbers"
NO_AREA, OUTSIDE = "boxes without area", "boxes that leave their image"
FORM, POLYGON = "segmentations of unknown form", "polygons with fewer than three points or an odd count"
RLE = "masks (RLE) of another size than their image"
MISSING = "image files missing"
# Faults that training survives: few of them are reported and do not stop a run.
BLEMISHES = (NO_AREA, OUTSIDE, POLYGON)


@dataclass(frozen=True)
class Fault:
    """One faulty entry.

    Attributes:
        entry: "images" or "annotations", the list it stands in.
        index: position in that list.
        kind: one of the texts above.
        detail: which entry it is and what it holds.
    """

    entry: str
    index: int
    kind: str
    detail: str


def check_form(document: Any, what: str) -> None:
    """Raises DataError unless the document has lists of images, categories and, where given, annotations.

    Categories are checked here: without knowing the classes no annotation can be judged.
    """
    for key in ("images", "categories", "annotations"):
        found = document.get(key) if isinstance(document, dict) else None
        if key == "annotations" and found is None and isinstance(document, dict):
            continue  # the test sets of COCO and LVIS
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise DataError(f"{what} is not in COCO's format: it has no list {key!r} of objects.")
        if key != "annotations" and not found:
            raise DataError(f"{what} is not in COCO's format: its list {key!r} is empty.")
    for category in document["categories"]:
        if not {"id", "name"} <= category.keys() or not _is_id(category["id"]):
            raise DataError(f"{what}: category {category} needs a whole number as 'id' and a 'name'.")
    ids = [category["id"] for category in document["categories"]]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise DataError(
            f"{what}: category id {twice[0]} occurs {ids.count(twice[0])} times: correct the file."
        )


def image_faults(images: Sequence[dict], lvis: bool = False) -> Iterator[Fault]:
    """Faults of image records; of records with one id the first is taken."""
    required = ("id", "height", "width", "coco_url" if lvis else "file_name")
    seen = set()
    for index, image in enumerate(images):
        name = f"image {image.get('id', f'at position {index}')}"
        missing = [key for key in required if key not in image]
        if missing:
            yield Fault("images", index, KEYS, f"{name} has no {', '.join(map(repr, missing))}")
        elif not _is_id(image["id"]):
            yield Fault("images", index, IDS, f"{name}: id {image['id']!r}")
        elif image["id"] in seen:
            yield Fault("images", index, TWICE, name)
        elif not all(isinstance(image[key], int) and image[key] > 0 for key in ("height", "width")):
            size = f"{image['width']!r} x {image['height']!r}"
            yield Fault("images", index, SIZE, f"{name}: {size}")
        else:
            seen.add(image["id"])


def annotation_faults(
    document: dict, images: Sequence[dict], *, lvis: bool = False, evaluated: bool = False
) -> Iterator[Fault]:
    """At most one fault of each annotation.

    Args:
        document: checked by `check_form`.
        images: records without faults.
        lvis: polygons are required, and RLE is not allowed.
        evaluated: AP needs the "area" of the truth.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    categories = {category["id"] for category in document["categories"]}
    required = ["id", "image_id", "category_id", "bbox"]
    required += ["area"] * evaluated + ["segmentation"] * lvis
    faulty = {str(image.get("id")) for image in document["images"]} - {str(i) for i in sizes}
    seen = set()
    for index, annotation in enumerate(document.get("annotations", ())):
        found = _ids_fault(annotation, required, sizes, categories, seen)
        if found is None:
            seen.add(annotation["id"])
            size = sizes[annotation["image_id"]]
            found = _box_fault(annotation["bbox"], size)
            found = found or _segmentation_fault(annotation.get("segmentation"), size, lvis)
        if found is not None:
            kind, detail = found
            if kind == IMAGE and str(annotation["image_id"]) in faulty:
                kind = OF_FAULTY
            place = f"annotation {annotation.get('id', f'at position {index}')}"
            if "image_id" in annotation:
                place += f" of image {annotation['image_id']}"
            yield Fault("annotations", index, kind, f"{place}: {detail}" if detail else place)


def file_name(image: dict, lvis: bool) -> str:
    """Path of an image below the data set's image folder."""
    return lvis_file_name(image) if lvis else image["file_name"]


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _ids_fault(annotation: dict, required: list, sizes: dict, categories: set, seen: set) -> tuple | None:
    for key in required:
        if key not in annotation:
            return KEYS, f"no {key!r}"
    number, image_id, category = annotation["id"], annotation["image_id"], annotation["category_id"]
    for value in (number, image_id, category):
        if not _is_id(value):
            return IDS, repr(value)
    if number in seen:
        return TWICE, ""
    if image_id not in sizes:
        return IMAGE, ""
    if category not in categories:
        return CATEGORY, f"category {category!r}"
    return None


def _box_fault(box: Any, size: tuple[int, int]) -> tuple | None:
    try:
        x, y, w, h = box
        finite = math.isfinite(x + y + w + h)
    except (TypeError, ValueError):
        finite = False
    if not finite:
        return NUMBERS, f"bbox {box!r}"
    if w <= 0 or h <= 0:
        return NO_AREA, f"bbox {box}"
    width, height = size
    beyond = max(-x, -y, x + w - width, y + h - height)
    if beyond > OVERHANG or x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return OUTSIDE, f"bbox [x, y, w, h] = {box} by {beyond:g} pixels of an image of {width} x {height}"
    return None


def _segmentation_fault(segmentation: Any, size: tuple[int, int], lvis: bool) -> tuple | None:
    if isinstance(segmentation, list):
        if not segmentation:  # as no segmentation, which boxes alone do not need
            return (FORM, "an empty list") if lvis else None
        try:
            if not all(math.isfinite(sum(polygon)) for polygon in segmentation):
                return FORM, "a coordinate that is not finite"
        except TypeError:
            return FORM, "a polygon is a list of numbers [x0, y0, x1, y1, ...]"
        short = [polygon for polygon in segmentation if len(polygon) < 6 or len(polygon) % 2]
        return (POLYGON, f"{len(short[0])} numbers {short[0][:6]}") if short else None
    if segmentation is None and not lvis:
        return None
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys() and not lvis:
        return _rle_fault(segmentation, size)
    return FORM, f"{type(segmentation).__name__}"


def _rle_fault(rle: dict, size: tuple[int, int]) -> tuple | None:
    width, height = size
    if rle["size"] != [height, width]:
        return RLE, f"size {rle['size']} for an image with [height, width] = [{height}, {width}]"
    try:
        counts = rle["counts"] if isinstance(rle["counts"], list) else decode_counts(rle["counts"])
        covered, least = sum(counts), min(counts, default=0)
    except (TypeError, ValueError):
        return FORM, "the counts of the RLE cannot be read"
    if covered != height * width or least < 0:
        return RLE, f"its counts cover {covered} of {height * width} pixels"
    return None


def decode_counts(text: str) -> list[int]:
    """Run lengths of a compressed RLE.

    Six bits per character from "0" on: five of the number, low ones first, and one that says that more
    follow; from the fourth run on the number is the difference to the run before the last (cocoapi
    common/maskApi.c, rleToString). pycocotools reads beyond the end of damaged texts.

    Raises:
        ValueError: not such a text.
    """
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if codes.size and (codes.min() < 0 or codes.max() > 63 or codes[-1] & 32):
        raise ValueError("not a compressed RLE")
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    if codes.size and (ends - starts).max() > 11:
        raise ValueError("not a compressed RLE")
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1) if codes.size else codes
    values = np.add.reduceat((codes & 31) << (5 * place), starts) if codes.size else codes
    values = np.where(codes[ends] & 16, values - (1 << (5 * (ends - starts + 1))), values)
    for first in (1, 2):  # two interleaved running sums
        values[first::2] = np.cumsum(values[first::2])
    return values.tolist()
