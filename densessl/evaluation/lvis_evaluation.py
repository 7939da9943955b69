"""LVIS box and mask AP: federated annotations, 300 detections per image, rare / common / frequent classes.

Gupta et al., LVIS: A Dataset for Large Vocabulary Instance Segmentation, https://arxiv.org/abs/1908.03195,
section 2.1; https://github.com/lvis-dataset/lvis-api, lvis/eval.py and lvis/results.py. That package does not
run on numpy 1.24 and later, so it is not used: its definition is kept, and each category is matched by
faster-coco-eval.

faster-coco-eval's own LVIS mode is not enough: it limits detections per image and category where LVIS limits
them per image, counts detections without area (which LVIS leaves out), takes missing lists of negative
categories for empty ones, and holds an entry for each pair of image and category (24 million on LVIS v1 val).
"""

import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pycocotools.mask as mask_util
from faster_coco_eval import COCO, COCOeval_faster
from tabulate import tabulate

from densessl.data.datasets.lvis import FREQUENCIES, lvis_faults
from densessl.errors import DataError
from densessl.evaluation.coco_evaluation import COCOEvaluator, no_print

logger = logging.getLogger(__name__)
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
IOU_THRESHOLDS, RECALLS, AREAS = 10, 101, 4  # 0.5, 0.55 ... 0.95; 0, 0.01 ... 1; all, small, medium, large


class LVISEvaluator(COCOEvaluator):
    """AP of LVIS: a class counts in an image only where it is known to be there or not to be there.

    - Of each image the `max_dets_per_image` best detections count, over all classes together.
    - Detections of a class that is neither annotated in the image nor among its `neg_category_ids` are left
      out; unmatched detections of its `not_exhaustive_category_ids` are no false positives.
    - APr, APc, APf are means over the rare, common and frequent classes, as the annotation file says.

    Results are `{"bbox": {...}, "segm": {...}}` with AP, AP50, AP75, APs, APm, APl, APr, APc, APf; plain
    floats from 0 to 100. A metric without a value is left out and logged as n/a, as in `COCOEvaluator`.

    Difference from lvis-api: a matched annotation counts as matched whatever its id; there the id 0 counts as
    "not matched" (LVIS itself has no id 0).

    Args:
        dataset_name, tasks, distributed, output_dir: see `COCOEvaluator`.
        max_dets_per_image: 300 by LVIS's definition.

    Raises:
        ConfigError: see `COCOEvaluator`.
        DataError: the annotations lack what LVIS defines, or have crowd regions.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 300,
    ) -> None:
        super().__init__(dataset_name, tasks, distributed, output_dir, max_dets_per_image=max_dets_per_image)
        document = self._coco_api.dataset
        faults = lvis_faults(document)
        if faults:
            raise DataError(f"{self._metadata.json_file} is not a file for LVIS evaluation: {faults[0]}.")
        self._images = {image["id"]: image for image in document["images"]}
        self._categories = sorted(document["categories"], key=lambda category: category["id"])
        self._do_evaluation = bool(document.get("annotations"))

    def _run_engine(self, detections: list[dict], task: str, img_ids: list | None) -> np.ndarray:
        """Precision (T thresholds, R recalls, K classes, 4 areas), -1 where a class has no ground truth."""
        images = self._images if img_ids is None else {i: self._images[i] for i in img_ids}
        truth = _by_category(
            _plain(annotation, task)
            for annotation in self._coco_api.dataset["annotations"]
            if annotation["image_id"] in images and annotation["area"] > 0
        )
        kept = limit_per_image(detections, self._max_dets_per_image[-1])
        found = _by_category(filter_federated(_measured(kept, task), truth, images))
        precision = np.full((IOU_THRESHOLDS, RECALLS, len(self._categories), AREAS), -1.0)
        for index, category in enumerate(self._categories):
            if truth[category["id"]]:  # without ground truth a class has no AP
                precision[:, :, index] = self._match(category, truth, found, task)
        return precision

    def _match(self, category: dict, truth: dict, found: dict, task: str) -> np.ndarray:
        """Precision (T, R, 4) of one category, from the images that know something of it."""
        own_truth, own_found = truth[category["id"]], found[category["id"]]
        image_ids = sorted({item["image_id"] for item in itertools.chain(own_truth, own_found)})
        document = {
            "images": [self._images[i] for i in image_ids],
            "categories": [category],
        }
        annotated, detected = (
            COCO({**document, "annotations": [{**item, "id": n} for n, item in enumerate(items, 1)]})
            for items in (own_truth, own_found)
        )
        engine = COCOeval_faster(annotated, detected, task, print_function=no_print, lvis_style=True)
        engine.params.maxDets = self._max_dets_per_image[-1:]
        engine.evaluate()
        engine.accumulate()
        return engine.eval["precision"][:, :, 0, :, 0]

    def _derive_coco_results(
        self, coco_eval: np.ndarray | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Metrics in percent from `_run_engine`'s precision; those without a value are missing."""
        if coco_eval is None:
            logger.warning("%s on %s: no predictions at all, metrics are n/a.", iou_type, self._metadata.name)
            return {}
        frequencies = [category["frequency"] for category in self._categories]
        values = summarize(coco_eval, frequencies)
        known = {name: 100.0 * value for name, value in values.items() if math.isfinite(value)}
        row = [[known.get(name) for name in METRICS]]
        table = tabulate(row, headers=METRICS, tablefmt="pipe", floatfmt=".2f", missingval="n/a")
        logger.info("%s on %s:\n%s", iou_type, self._metadata.name, table)
        return known


def limit_per_image(detections: Iterable[dict], limit: int) -> list[dict]:
    """The `limit` best detections of each image, whatever their class; of equal scores the first ones."""
    by_image = defaultdict(list)
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    return [
        detection
        for items in by_image.values()
        for detection in sorted(items, key=lambda item: -item["score"])[:limit]
    ]


def filter_federated(detections: Iterable[dict], truth: Mapping, images: Mapping) -> list[dict]:
    """Leaves out detections of classes of which the annotations say nothing for the image.

    Args:
        detections: with "image_id" and "category_id".
        truth: category id -> annotations.
        images: image id -> record with "neg_category_ids".
    """
    known = {image_id: set(image["neg_category_ids"]) for image_id, image in images.items()}
    for category_id, annotations in truth.items():
        for annotation in annotations:
            known[annotation["image_id"]].add(category_id)
    return [item for item in detections if item["category_id"] in known.get(item["image_id"], ())]


def summarize(precision: np.ndarray, frequencies: Sequence[str]) -> dict[str, float]:
    """The nine metrics in [0, 1]; NaN where no class has a value.

    Args:
        precision: (T, R, K, 4), -1 for "no value".
        frequencies: (K,), "r", "c" or "f".
    """
    every = slice(None)
    groups = [[k for k, value in enumerate(frequencies) if value == group] for group in FREQUENCIES]
    chosen = [(every, every, 0), ([0], every, 0), ([5], every, 0)]
    chosen += [(every, every, area) for area in (1, 2, 3)]
    chosen += [(every, group, 0) for group in groups]
    values = {}
    for name, (thresholds, classes, area) in zip(METRICS, chosen):
        part = precision[thresholds][:, :, classes, area]
        part = part[part > -1]
        values[name] = float(part.mean()) if part.size else math.nan
    return values


def _by_category(items: Iterable[dict]) -> defaultdict[int, list[dict]]:
    groups = defaultdict(list)
    for item in items:
        groups[item["category_id"]].append(item)
    return groups


def _plain(annotation: dict, task: str) -> dict:
    """What matching needs of an annotation: its region and area."""
    region = "bbox" if task == "bbox" else "segmentation"
    return {key: annotation[key] for key in ("image_id", "category_id", "area", region)}


def _measured(detections: Iterable[dict], task: str) -> Iterable[dict]:
    """Detections with the area of their box or mask, without those that have none (as lvis.get_ann_ids)."""
    for detection in detections:
        if task == "bbox":
            _, _, width, height = detection["bbox"]
            area = width * height
        else:
            area = float(mask_util.area(detection["segmentation"]))
        if area > 0:
            yield {**_plain({**detection, "area": area}, task), "score": detection["score"]}
