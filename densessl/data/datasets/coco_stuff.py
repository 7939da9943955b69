"""COCO-Stuff's labels in 27, 15 or 3 classes, from the `stuffthingmaps` label images.

Label images hold COCO category id - 1: things 0-90, stuff 91-181, 255 unlabelled. The 27 classes, their names
and the fine classes of each are those of IIC and PiCIE (xu-ji/IIC `cocostuff.py`, janghyuncho/PiCIE
`fine_to_coarse_dict.pickle`), kept as text in meta/coco_stuff_27.json.

Unlabelled pixels are ignored. IIC's code, against its comments, counts them as class 0 of 27 and as sky of 3
(code/datasets/segmentation/cocostuff.py:605-615, 734-760); its numbers contain that.
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np

from densessl.errors import ConfigError, DataError

IGNORE_LABEL = 255
_INVALID = 254  # no class has this number


@lru_cache(maxsize=1)
def coco_stuff_classes() -> dict:
    """What meta/coco_stuff_27.json holds: names, things, fine classes, checksums of the curated lists."""
    return json.loads((Path(__file__).parent / "meta/coco_stuff_27.json").read_text())


def class_names(num_classes: int = 27) -> list[str]:
    """Names of the 27, 15 or 3 classes, by number."""
    names = coco_stuff_classes()["coarse_names"]
    return [names[coarse] for coarse in _coarse_classes(num_classes)]


def is_thing(num_classes: int = 27) -> list[bool]:
    """Which of the 27, 15 or 3 classes are things: the first 12 of 27, and no others."""
    things = coco_stuff_classes()["coarse_is_thing"]
    return [things[coarse] for coarse in _coarse_classes(num_classes)]


def map_labels(fine: np.ndarray, num_classes: int = 27) -> np.ndarray:
    """Fine classes to 27, 15 (stuff only) or 3 (sky, plant, ground) classes.

    Args:
        fine: (H, W) uint8 as in the label images.
        num_classes: 27, 15 or 3.

    Returns:
        (H, W) uint8; 255 for unlabelled pixels and for classes outside the 15 or 3.

    Raises:
        DataError: values that the label images of this release do not have.
    """
    labels = _table(num_classes)[fine]
    if (labels == _INVALID).any():
        values = sorted(set(fine[labels == _INVALID].tolist()))
        raise DataError(
            f"label values {values[:5]}: COCO-Stuff's stuffthingmaps have 0 .. 181 and 255. Other releases "
            "(panoptic, 'pixelmaps') count otherwise: use stuffthingmaps_trainval2017.zip"
        )
    return labels


def is_curated(fine: np.ndarray) -> bool:
    """The rule of the curated lists: both sides at least 360, and at least 75 % of all pixels stuff.

    xu-ji/IIC code/datasets/segmentation/util/coco164k_prepare.py:122-198. Unlabelled pixels are not stuff.

    Args:
        fine: (h, w) uint8 as in the label images.
    """
    rule = coco_stuff_classes()["curation_rule"]
    stuff = map_labels(fine, 15) != IGNORE_LABEL
    large = fine.shape[0] >= rule["min_height"] and fine.shape[1] >= rule["min_width"]
    return bool(large and stuff.mean() >= rule["min_fraction_of_pixels_in_coarse_12_to_26"])


@lru_cache(maxsize=3)
def _table(num_classes: int) -> np.ndarray:
    table = np.full(256, _INVALID, np.uint8)
    table[IGNORE_LABEL] = IGNORE_LABEL
    wanted = {coarse: number for number, coarse in enumerate(_coarse_classes(num_classes))}
    for fine, coarse in coco_stuff_classes()["fine_to_coarse"].items():
        table[int(fine)] = wanted.get(coarse, IGNORE_LABEL)
    return table


def _coarse_classes(num_classes: int) -> list[int]:
    """Numbers among the 27 of the classes of a subset, in its order."""
    facts = coco_stuff_classes()
    stuff = facts["stuff_coarse_ids"]
    three = [facts["coarse_names"].index(facts["iic_stuff3"][str(index)]) for index in range(3)]
    subsets = {27: list(range(27)), 15: stuff, 3: three}
    if num_classes not in subsets:
        raise ConfigError(f"num_classes={num_classes}: COCO-Stuff has 27, 15 or 3.")
    return subsets[num_classes]
