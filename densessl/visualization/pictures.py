"""Picture sections of the report: feature maps, cluster maps, detections; correspondences: `matching.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import torch
from detectron2.data import MetadataCatalog

from densessl.losses.cosine import feature_spread
from densessl.visualization import clusters, detections, page
from densessl.visualization.backbones import FeatureExtractor
from densessl.visualization.features import colour_maps
from densessl.visualization.photographs import Photograph, read_photograph, resized, shrunk
from densessl.visualization.runs import Run

LONG_SIDE = 640  # of photographs whose features are drawn
SHOWN_SIDE = 480  # of pictures in the page


def feature_columns(
    models: Mapping[str, FeatureExtractor], photographs: Sequence[Photograph]
) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]], dict[str, tuple[float, int]]]:
    """Photographs as drawn; per model its colours; per model effective rank of the locations and channels."""
    scaled = [resized(p.image, LONG_SIDE) for p in photographs]
    columns, ranks = {}, {}
    for name, model in models.items():
        maps = [model(image) for image in scaled]
        columns[name] = colour_maps(maps, [image.shape[:2] for image in scaled])
        rows = torch.cat([m.flatten(1).t() for m in maps])  # (locations, C)
        ranks[name] = float(feature_spread(rows)["effective_rank"]), maps[0].shape[0]
    return scaled, columns, ranks


def cluster_columns(
    models: Mapping[str, FeatureExtractor], photographs: Sequence[Photograph], num_clusters: int
) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]], dict[str, np.ndarray]]:
    """Photographs as drawn; per model its cluster pictures; per model the share of each cluster."""
    scaled = [resized(p.image, LONG_SIDE) for p in photographs]
    columns, shares = {}, {}
    for name, model in models.items():
        maps = clusters.cluster_maps([model(image) for image in scaled], num_clusters)
        columns[name] = [clusters.draw_clusters(*item) for item in zip(scaled, maps)]
        shares[name] = clusters.shares(maps)
    return scaled, columns, shares


def feature_section(models: Mapping[str, FeatureExtractor], photographs: Sequence[Photograph]) -> str:
    """Principal components of the feature maps as colour, beside each photograph, one column per model."""
    scaled, columns, found = feature_columns(models, photographs)
    ranks = [[name, f"{rank:.1f}", str(channels)] for name, (rank, channels) in found.items()]
    text = (
        "The first three principal components of all locations become red, green and blue. One basis serves "
        "all photographs of a backbone, so equal colours mean similar features across them; colours of "
        "different backbones do not compare. Parts of one kind in one colour, with borders where objects "
        "end, is what dense pretraining is for."
    )
    caption = "Effective rank of the locations: how many directions the features use (participation ratio)"
    table = page.table(["Backbone", "effective rank", "channels"], ranks, caption=caption, numeric=True)
    return page.paragraph(text) + _strips(photographs, scaled, columns, "Feature colours") + table


def cluster_section(models: Mapping[str, FeatureExtractor], photographs: Sequence[Photograph]) -> str:
    """Clusters of the locations of all photographs, beside each photograph, one column per model."""
    scaled, columns, found = cluster_columns(models, photographs, clusters.NUM_CLUSTERS)
    rows = [[name, *(f"{share:.0%}" for share in shares)] for name, shares in found.items()]
    text = (
        f"k-means (cosine similarity) puts every location of all photographs into one of "
        f"{clusters.NUM_CLUSTERS} clusters; one clustering serves all photographs of a backbone, so equal "
        "numbers mean similar features across them. Numbers of different backbones do not compare. Good "
        "features give things of one kind one cluster; one cluster that holds nearly everything is a sign "
        "of collapse."
    )
    widest = max(len(row) for row in rows)
    rows = [row + ["none"] * (widest - len(row)) for row in rows]
    headers = ["Backbone", *(f"cluster {i}" for i in range(1, widest))]
    caption = "Share of the locations in each cluster, the largest first"
    table = page.table(headers, rows, caption=caption, numeric=True)
    return page.paragraph(text) + _strips(photographs, scaled, columns, "Clusters") + table


def _strips(
    photographs: Sequence[Photograph],
    scaled: Sequence[np.ndarray],
    columns: Mapping[str, Sequence[np.ndarray]],
    kind: str,
) -> str:
    """One row per photograph: itself and a drawing per model."""
    strips = []
    for index, photograph in enumerate(photographs):
        image = shrunk(scaled[index], SHOWN_SIDE)
        name = escape(photograph.name)
        cells = [page.figure(page.picture(image, f"Photograph {photograph.name}."), f"photograph {name}")]
        for model, drawings in columns.items():
            alt = f"{kind} of the {model} backbone for {photograph.name}."
            picture = page.picture(shrunk(drawings[index], SHOWN_SIDE), alt)
            cells.append(page.figure(picture, f"<strong>{escape(model)}</strong>"))
        strips.append(f'<div class="strip" style="--columns:{len(cells)}">{"".join(cells)}</div>')
    return "".join(strips)


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
