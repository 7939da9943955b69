"""Picture sections of the report: correspondences, feature maps, detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.data import MetadataCatalog

from densessl.data.decode import decode_image
from densessl.losses.cosine import feature_spread
from densessl.visualization import detections, page
from densessl.visualization.backbones import FeatureExtractor, resized
from densessl.visualization.correspondences import (
    THRESHOLD,
    MatchAccuracy,
    correct_pairs,
    draw_matches,
    match_accuracy,
    mutual_matches,
)
from densessl.visualization.features import colour_maps
from densessl.visualization.runs import Run
from densessl.visualization.views import ViewPair, view_pair

VIEW_SIZE = 320  # pixels: 10 x 10 cells at stride 32, enough to see and to score
PAIRS_PER_IMAGE = 8
DRAWN_PAIRS = 3
DRAWN_MATCHES = 24  # more lines hide the photographs
LONG_SIDE = 640  # of photographs whose features are drawn
SHOWN_SIDE = 480  # of pictures in the page


@dataclass(frozen=True)
class Photograph:
    """Attributes:
    name: short, for captions.
    image: (H, W, 3) uint8 RGB.
    """

    name: str
    image: np.ndarray


def read_photograph(path: str | Path) -> Photograph:
    """Reads an image file; raises DataError where it cannot be read."""
    return Photograph(Path(path).name, decode_image(path))


def correspondence_section(
    models: dict[str, FeatureExtractor],
    drawn: Sequence[str],
    photographs: Sequence[Photograph],
    threshold: float = THRESHOLD,
) -> str:
    """Scores dense matches between two views of each photograph, and draws some of them.

    Args:
        models: name -> features; all are scored.
        drawn: names of those whose matches are drawn.
        photographs: each gives PAIRS_PER_IMAGE scored pairs; the first DRAWN_PAIRS are drawn once.
        threshold: cosine above which a mutual match counts and is drawn.
    """
    totals = {name: MatchAccuracy() for name in models}
    drawings = []
    for index, photograph in enumerate(photographs):
        for repeat in range(PAIRS_PER_IMAGE):
            pair = view_pair(photograph.image, VIEW_SIZE, seed=index * PAIRS_PER_IMAGE + repeat)
            for name, model in models.items():
                maps = model(pair.images[0]), model(pair.images[1])
                totals[name] += match_accuracy(*maps, *pair.geometry, threshold)
                if repeat == 0 and index < DRAWN_PAIRS and name in drawn:
                    drawings.append(_matches_figure(name, photograph.name, pair, maps, threshold))
    text = (
        f"Two views of one photograph are cut at different places and scales, every second one mirrored, and "
        "the colours of one are changed. A location of the last feature map is matched to its nearest "
        "neighbour by cosine similarity; since the crop boxes are known, so is the true partner. A match is "
        "right within one cell of the feature map. Lines join mutual nearest neighbours above "
        f"{threshold:g}, at most {DRAWN_MATCHES}: green with dots is right, orange with a cross is wrong."
    )
    scored = f"{len(photographs) * PAIRS_PER_IMAGE} pairs of {len(photographs)} photographs"
    table = _accuracy_table(totals, scored, len(photographs) * PAIRS_PER_IMAGE, threshold)
    return page.paragraph(text) + table + f'<div class="pairs">{"".join(drawings)}</div>'


def _accuracy_table(totals: dict[str, MatchAccuracy], scored: str, pairs: int, threshold: float) -> str:
    headers = [
        "Backbone",
        "nearest neighbour right",
        "by chance",
        "mutual matches per pair",
        "of these right",
    ]
    rows = []
    for name, t in totals.items():
        share = f"{t.mutual_correct / t.mutual:.1%}" if t.mutual else "n/a"
        nearest, chance = t.nearest_correct / max(t.cells, 1), t.chance / max(t.cells, 1)
        rows.append([name, f"{nearest:.1%}", f"{chance:.1%}", f"{t.mutual / pairs:.1f}", share])
    caption = f"Matches against true geometry, {scored}; mutual matches have a cosine above {threshold:g}"
    return page.table(headers, rows, caption=caption, numeric=True)


def _matches_figure(name: str, photograph: str, pair: ViewPair, maps, threshold: float) -> str:
    matches = mutual_matches(*maps, threshold)
    size = tuple(maps[0].shape[1:])
    correct = correct_pairs(size, *pair.geometry)[0][matches.query, matches.key]
    right = int(correct.sum())
    words = f"{right} of {len(matches)} mutual matches right" if len(matches) else "no mutual match"
    shown = slice(0, DRAWN_MATCHES)
    drawing = draw_matches(*pair.images, matches[shown], size, correct[shown])
    alt = f"Two views of {photograph} with matches of the {name} backbone: {words}."
    caption = f"<strong>{escape(name)}</strong>, {escape(photograph)}: {words}"
    return page.figure(page.picture(drawing, alt), caption)


def feature_section(models: dict[str, FeatureExtractor], photographs: Sequence[Photograph]) -> str:
    """Principal components of the feature maps as colour, beside each photograph, one column per model."""
    scaled = [resized(p.image, LONG_SIDE) for p in photographs]
    columns, ranks = {}, []
    for name, model in models.items():
        maps = [model(image) for image in scaled]
        columns[name] = colour_maps(maps, [image.shape[:2] for image in scaled])
        rows = torch.cat([m.flatten(1).t() for m in maps])  # (locations, C)
        ranks.append([name, f"{float(feature_spread(rows)['effective_rank']):.1f}", str(maps[0].shape[0])])
    text = (
        "The first three principal components of all locations become red, green and blue. One basis serves "
        "all photographs of a backbone, so equal colours mean similar features across them; colours of "
        "different backbones do not compare. Parts of one kind in one colour, with borders where objects "
        "end, is what dense pretraining is for."
    )
    strips = []
    for index, photograph in enumerate(photographs):
        cells = [
            page.figure(page.picture(_shown(scaled[index]), f"Photograph {photograph.name}."), "photograph")
        ]
        for name, drawings in columns.items():
            alt = f"Features of the {name} backbone for {photograph.name} as colours."
            cells.append(page.figure(page.picture(_shown(drawings[index]), alt), escape(name)))
        strips.append(f'<div class="strip" style="--columns:{len(cells)}">{"".join(cells)}</div>')
    caption = "Effective rank of the locations: how many directions the features use (participation ratio)"
    table = page.table(["Backbone", "effective rank", "channels"], ranks, caption=caption, numeric=True)
    return page.paragraph(text) + "".join(strips) + table


def _shown(image: np.ndarray) -> np.ndarray:
    scale = SHOWN_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def detection_section(runs: Sequence[Run], records: Sequence[dict], dataset: str, threshold: float) -> str:
    """Ground truth and the predictions of every run on held-out images.

    Args:
        runs: those without predictions are named, not drawn.
        records: dataset dicts of the images to draw.
        dataset: registered name, for class names and ids.
        threshold: lowest score that is drawn.
    """
    predicted = {run.name: run.predictions() for run in runs}
    absent = [name for name, results in predicted.items() if results is None]
    predicted = {name: results for name, results in predicted.items() if results is not None}
    catalog = MetadataCatalog.get(dataset)
    names = list(catalog.thing_classes)
    ids = getattr(catalog, "thing_dataset_id_to_contiguous_id", {i: i for i in range(len(names))})
    strips, shown = [], set()
    for record in records:
        photograph = read_photograph(record["file_name"])
        size = photograph.image.shape[:2]
        truth = detections.ground_truth({**record, "height": size[0], "width": size[1]})
        drawn = {"ground truth": truth}
        for name, results in predicted.items():
            drawn[name] = detections.predictions(results, record["image_id"], ids, size, threshold)
        shown |= {instance.category for found in drawn.values() for instance in found}
        cells = [_instances_figure(name, photograph, found, names) for name, found in drawn.items()]
        strips.append(f'<div class="strip stack">{"".join(cells)}</div>')
    text = f"Test images of {dataset}, with objects of score {threshold:g} and more. Labels are class: score."
    body = page.paragraph(text) + _class_legend(names, shown) + "".join(strips)
    if absent:
        body += page.missing(
            f"No predictions on disk: {', '.join(absent)}. They are written by the evaluation."
        )
    return body


def _instances_figure(
    name: str, photograph: Photograph, instances: Sequence[detections.Instance], classes: Sequence[str]
) -> str:
    words = detections.in_words(instances, classes)
    drawing = detections.draw_instances(photograph.image, instances)
    caption = f"<strong>{escape(name)}</strong>: {escape(words)}"
    return page.figure(page.picture(drawing, f"{photograph.name}, {name}: {words}."), caption)


def _class_legend(names: Sequence[str], shown: set[int]) -> str:
    items = []
    for index in sorted(shown):
        colour = f"rgb{detections.CLASS_COLOURS[index % len(detections.CLASS_COLOURS)]}"
        label = f"{index + 1} {names[index]}"
        items.append(f'<li><span class="swatch" style="background:{colour}"></span>{escape(label)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'
