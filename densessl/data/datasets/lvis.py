"""LVIS annotations as detectron2 records, without the `lvis` package, which does not run on numpy 2.

Gupta et al., LVIS, https://arxiv.org/abs/1908.03195; fields: https://www.lvisdataset.org/dataset. On import,
detectron2's names lvis_v1_* get this loader; detectron2's own needs that package.
"""

import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from densessl.errors import DataError

logger = logging.getLogger(__name__)
# In how many training images a class is: rare 1-10, common 11-100, frequent more (LVIS, section 2.1)
FREQUENCIES = ("r", "c", "f")


def load_lvis_json(json_file: str, image_root: str, name: str) -> list[dict]:
    """Loads a file of LVIS v1.

    Category ids become 0..C-1 in their order; the metadata of `name` gets `thing_classes` and
    `thing_dataset_id_to_contiguous_id` from the file's categories.

    Args:
        json_file: annotations; those of the test sets have none.
        image_root: folder below which the images lie at <split>/<file>, the end of their `coco_url`.
        name: of the data set.

    Returns:
        records by image id, with `neg_category_ids` and `not_exhaustive_category_ids` (file's category ids)
        where the file has them. Polygons with fewer than three points raise.

    Raises:
        DataError: an annotation without a valid polygon.
        KeyError, ValueError: a damaged file (`guard_annotations` says which).
    """
    with PathManager.open(json_file) as stream:
        document = json.load(stream)
    categories = sorted(document["categories"], key=lambda category: category["id"])
    contiguous = {category["id"]: index for index, category in enumerate(categories)}
    MetadataCatalog.get(name).set(
        thing_classes=[category["name"] for category in categories],
        thing_dataset_id_to_contiguous_id=contiguous,
    )
    instances: dict[int, list[dict]] = {image["id"]: [] for image in document["images"]}
    for annotation in document.get("annotations", ()):
        instances[annotation["image_id"]].append(_instance(annotation, contiguous))
    logger.info("Loaded %d images in the LVIS format from %s", len(document["images"]), json_file)
    return [
        _record(image, image_root, instances[image["id"]])
        for image in sorted(document["images"], key=lambda image: image["id"])
    ]


def register_lvis_instances(name: str, json_file: str, image_root: str) -> None:
    """Registers a data set in the LVIS format; replaces detectron2's function of that name."""
    DatasetCatalog.register(name, partial(load_lvis_json, json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="lvis")


def lvis_file_name(image: dict) -> str:
    """<split>/<file> of an image record: LVIS splits COCO's images anew, so its sets mix COCO's folders."""
    return "/".join(image["coco_url"].split("/")[-2:])


def lvis_faults(document: dict[str, Any]) -> list[str]:
    """What a file lacks for LVIS's evaluation; one phrase for each kind of fault.

    A file without annotations (the test sets) is not to be evaluated and lacks nothing.
    """
    if not document.get("annotations"):
        return []
    faults = []
    images, annotations = document["images"], document["annotations"]
    for key in ("neg_category_ids", "not_exhaustive_category_ids"):
        without = [image["id"] for image in images if key not in image]
        faults += _fault(without, f"images have no {key!r}")
    unknown = [c["id"] for c in document["categories"] if c.get("frequency") not in FREQUENCIES]
    faults += _fault(unknown, f"categories have no 'frequency' of {', '.join(FREQUENCIES)}")
    crowds = [a["id"] for a in annotations if a.get("iscrowd", 0) or a.get("ignore", 0)]
    faults += _fault(crowds, "annotations are marked 'iscrowd' or 'ignore', which LVIS does not have")
    return faults


def _fault(ids: Sequence[int], what: str) -> list[str]:
    return [f"{len(ids)} {what} (first: id {ids[0]})"] if ids else []


def _instance(annotation: dict, contiguous: dict[int, int]) -> dict:
    polygons = annotation["segmentation"]
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise DataError(
            f"annotation {annotation['id']} of image {annotation['image_id']} has no valid polygon: each "
            "needs at least three points. train.bad_annotations=drop leaves such annotations out."
        )
    return {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": contiguous[annotation["category_id"]],
        "segmentation": polygons,
    }


def _record(image: dict, image_root: str, annotations: list[dict]) -> dict:
    federated = ("neg_category_ids", "not_exhaustive_category_ids")
    return {
        "file_name": os.path.join(image_root, lvis_file_name(image)),
        "height": image["height"],
        "width": image["width"],
        "image_id": image["id"],
        **{key: image[key] for key in federated if key in image},
        "annotations": annotations,
    }


def _replace_loaders() -> None:
    for name in DatasetCatalog.list():
        if name.startswith("lvis_v1_"):
            metadata = MetadataCatalog.get(name)
            DatasetCatalog[name] = partial(load_lvis_json, metadata.json_file, metadata.image_root, name)
            # detectron2 names classes by their first synonym; loading sets the file's names, and metadata
            # refuses a second value
            metadata.__dict__.pop("thing_classes", None)


_replace_loaders()
