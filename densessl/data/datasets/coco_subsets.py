"""Names of the parts of COCO that `datasets/prepare_coco_subset.py` writes.

`coco_2017_train_{1,2,5,10}pct` and, for the other draws, `coco_2017_train_{1,2,5,10}pct_seed{1..4}`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata

from densessl.data.datasets.builtin import dataset_path
from densessl.data.samplers import random_words
from densessl.errors import DataError

PERCENTS = (1, 2, 5, 10)
SEEDS = range(5)


def subset_suffix(percent: float, seed: int) -> str:
    """End of the names of data set and file: "_10pct", "_0.5pct_seed2"; seed 0 is not written."""
    return f"_{percent:g}pct" + (f"_seed{seed}" if seed else "")


def draw_images(ids: Sequence[int], percent: float, seed: int) -> list[int]:
    """`percent` of the image ids, drawn without replacement; rounded half up, at least one.

    The ids in ascending order are permuted by the seed, and the first ones are taken: every list of a seed
    contains the smaller lists of that seed, and no order of files or version of numpy matters
    (`random_words`).
    """
    order = np.argsort(random_words(seed, count=len(ids)), kind="stable")
    count = max(1, int(len(ids) * percent / 100 + 0.5))
    ascending = sorted(ids)
    return [ascending[index] for index in order[:count]]


def subset_document(document: Mapping[str, Any], percent: float, seed: int, source: str) -> dict[str, Any]:
    """The part of a COCO document, in its order, with all categories; `info.subset` says how it was drawn.

    Args:
        document: with lists "images" and "annotations".
        percent: above 0, to 100.
        seed: >= 0.
        source: text for `info.subset`: which file.
    """
    kept = set(draw_images([image["id"] for image in document["images"]], percent, seed))
    how = {"of": source, "percent": percent, "seed": seed, "images": len(kept)}
    return {
        **document,
        "info": {**document.get("info", {}), "subset": how},
        "images": [image for image in document["images"] if image["id"] in kept],
        "annotations": [a for a in document["annotations"] if a["image_id"] in kept],
    }


def load_subset(json_file: str, image_root: str, name: str) -> list[dict]:
    """Loads a list as detectron2 loads COCO.

    Raises:
        DataError: it has not been built.
    """
    if not Path(json_file).is_file():
        raise DataError(f"{json_file}: not found. {MetadataCatalog.get(name).how_to_build}.")
    return load_coco_json(json_file, image_root, name)


def register_subsets() -> None:
    """Registers all names; nothing is read until a data set is loaded."""
    command = "python datasets/prepare_coco_subset.py"
    for percent in PERCENTS:
        for seed in SEEDS:
            suffix = subset_suffix(percent, seed)
            name = f"coco_2017_train{suffix}"
            path = dataset_path(f"coco/annotations/instances_train2017{suffix}.json")
            root = dataset_path("coco/train2017")
            DatasetCatalog.register(name, partial(load_subset, path, root, name))
            MetadataCatalog.get(name).set(
                json_file=path,
                image_root=root,
                evaluator_type="coco",
                how_to_build=f"Build it with `{command} --percent {percent} --seed {seed}`",
                **_get_builtin_metadata("coco"),
            )


def read_document(path: Path) -> dict[str, Any]:
    """Reads a COCO file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); name a COCO file with --json.") from error


register_subsets()
