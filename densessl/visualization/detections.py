"""Instances drawn on their photograph: ground truth and predictions in the same way, side by side.

Predictions come from the file that the COCO evaluator writes (`coco_instances_results.json`: image_id,
category_id, bbox XYWH in pixels, segmentation as RLE, score), ground truth from detectron2's dataset
dicts. Category ids of the file are those of the data set's JSON, dataset dicts count from 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from detectron2.structures import BoxMode

from densessl.data.datasets.sample_writer import segmentation_to_mask

# Okabe and Ito's colours (RGB), told apart by colour-blind eyes; classes beyond them start again.
CLASS_COLOURS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)


@dataclass(frozen=True)
class Instance:
    """One object.

    Attributes:
        category: index of the class, from 0.
        box: (x0, y0, x1, y1) in pixels.
        mask: (H, W) bool, or None where there is only a box.
        score: in [0, 1], or None for ground truth.
    """

    category: int
    box: tuple[float, float, float, float]
    mask: np.ndarray | None
    score: float | None = None


def _decode_mask(segmentation: list | dict | None, height: int, width: int) -> np.ndarray | None:
    return segmentation_to_mask(segmentation, height, width) if segmentation else None


def ground_truth(record: dict) -> list[Instance]:
    """Objects of a detectron2 dataset dict, largest first; crowds are left out.

    Args:
        record: with `height`, `width` and `annotations` (bbox, bbox_mode, category_id from 0, segmentation).
    """
    found = []
    for annotation in record.get("annotations", []):
        if annotation.get("iscrowd", 0):
            continue
        box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
        mask = _decode_mask(annotation.get("segmentation"), record["height"], record["width"])
        found.append(Instance(int(annotation["category_id"]), tuple(map(float, box)), mask))
    return sorted(found, key=_area, reverse=True)


def predictions(
    results: Sequence[dict], image_id, contiguous_ids: dict[int, int], size: tuple[int, int], threshold: float
) -> list[Instance]:
    """Objects predicted for one image with a score of at least `threshold`, largest first.

    Args:
        results: all entries of `coco_instances_results.json`.
        image_id: of the image, as in its dataset dict.
        contiguous_ids: category id of the file -> index from 0 (metadata of the data set).
        size: (height, width) of the image in pixels.
        threshold: in [0, 1].
    """
    found = []
    for entry in results:
        if entry["image_id"] != image_id or entry["score"] < threshold:
            continue
        x, y, width, height = entry["bbox"]
        mask = _decode_mask(entry.get("segmentation"), *size)
        category = contiguous_ids[entry["category_id"]]
        found.append(Instance(category, (x, y, x + width, y + height), mask, float(entry["score"])))
    return sorted(found, key=_area, reverse=True)


def _area(instance: Instance) -> float:
    if instance.mask is not None:
        return float(instance.mask.sum())
    x0, y0, x1, y1 = instance.box
    return (x1 - x0) * (y1 - y0)


def draw_instances(image: np.ndarray, instances: Sequence[Instance]) -> np.ndarray:
    """Masks in the colour of their class with an outline, boxes where there is no mask, and labels.

    A label is the number of the class, from 1, and the score: names would cover crowded images.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: drawn in order, so that small ones given last stay visible.

    Returns:
        (H, W, 3) uint8 RGB, a new array.
    """
    canvas = image.copy()
    line = max(1, round(max(image.shape[:2]) / 320))
    for instance in instances:
        colour = CLASS_COLOURS[instance.category % len(CLASS_COLOURS)]
        if instance.mask is None:
            x0, y0, x1, y1 = (round(v) for v in instance.box)
            cv2.rectangle(canvas, (x0, y0), (x1, y1), (255, 255, 255), line + 2)
            cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, line)
            continue
        tint = 0.55 * canvas[instance.mask] + 0.45 * np.array(colour)
        canvas[instance.mask] = tint.round().astype(np.uint8)
        outline, _ = cv2.findContours(
            instance.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        cv2.drawContours(canvas, outline, -1, (255, 255, 255), line + 2)
        cv2.drawContours(canvas, outline, -1, colour, line)
    for instance in instances:
        _draw_label(canvas, instance)
    return canvas


def _draw_label(canvas: np.ndarray, instance: Instance) -> None:
    """Class and score in white on black at the top left of the object, moved inside the picture."""
    text = str(instance.category + 1)
    if instance.score is not None:
        text = f"{text}: {instance.score:.2f}"
    scale = max(canvas.shape[:2]) / 950
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(min(max(instance.box[0], 0), max(canvas.shape[1] - width - 4, 0)))
    y = int(min(max(instance.box[1], 0), canvas.shape[0] - height - base - 4))
    cv2.rectangle(canvas, (x, y), (x + width + 4, y + height + base + 2), (0, 0, 0), -1)
    origin = (x + 2, y + height + 2)
    cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


def in_words(instances: Sequence[Instance], names: Sequence[str]) -> str:
    """Counts per class, such as "3 plate, 1 massive", or "none"."""
    counts = Counter(instance.category for instance in instances)
    return ", ".join(f"{counts[c]} {names[c]}" for c in sorted(counts)) or "none"
