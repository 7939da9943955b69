"""COCO-Stuff's class tables, and the square of the test images, against recorded arrays."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "clustering"))
from cluster_golden import golden

from densessl.data.datasets.coco_stuff import class_names, coco_stuff_classes, is_thing, map_labels
from densessl.data.transforms import resize_center_crop
from densessl.errors import ConfigError, DataError


def signed(labels: np.ndarray) -> np.ndarray:
    """-1 for ignored pixels, as the authors write them."""
    return np.where(labels == 255, -1, labels.astype(np.int64))


def test_label_maps_equal_the_recorded_ones():
    arrays = golden("label_map_s0")
    fine = arrays["in/fine"]
    assert set(range(182)) | {255} == set(fine.ravel().tolist())
    assert np.array_equal(signed(map_labels(fine)), arrays["out/picie_thing_and_stuff"])
    # IIC's tables count unlabelled pixels as a class; they agree on the others
    known = fine != 255
    assert np.array_equal(signed(map_labels(fine))[known], arrays["out/iic27"][known])
    for classes in (15, 3):
        theirs = np.where(arrays[f"out/iic{classes}_mask"], arrays[f"out/iic{classes}"], -1)
        assert np.array_equal(signed(map_labels(fine, classes))[known], theirs[known])
        assert (map_labels(fine, classes)[~known] == 255).all()


def test_names_and_parts():
    assert len(class_names()) == 27
    assert sum(is_thing()) == 12
    assert all(name.endswith("-things") == thing for name, thing in zip(class_names(), is_thing()))
    assert class_names(15) == class_names()[12:]
    assert class_names(3) == ["sky-stuff", "plant-stuff", "ground-stuff"]
    assert not any(is_thing(15) + is_thing(3))
    lists = coco_stuff_classes()["curated_lists"]
    assert {name: entry["images"] for name, entry in lists.items()} == {"train2017": 49629, "val2017": 2175}


def test_other_values_and_numbers_of_classes():
    with pytest.raises(DataError, match=r"label values \[183, 200\].*stuffthingmaps"):
        map_labels(np.array([[0, 183, 200, 255]], np.uint8))
    with pytest.raises(ConfigError, match="num_classes=171"):
        map_labels(np.zeros((1, 1), np.uint8), 171)


def test_square_equals_the_recorded_one():
    arrays = golden("eval_crop_s0")
    size = int(arrays["hp/res"])
    # Pillow's versions round apart by at most one grey level
    for key, side in {"image_u8": size, "train_base_u8": int(arrays["hp/res2"])}.items():
        ours = resize_center_crop(arrays["in/image"], side).astype(int)
        assert np.abs(ours - arrays[f"out/{key}"]).max() <= 1
    label = resize_center_crop(arrays["in/label"], size, labels=True)
    assert np.array_equal(signed(map_labels(label)), arrays["out/label"])


@pytest.mark.parametrize("shape", [(5, 9, 3), (40, 17), (7, 7, 3)])
def test_square_of_small_and_long_images(shape):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    square = resize_center_crop(image, 16, labels=len(shape) == 2)
    assert square.shape == (16, 16, *shape[2:])
    assert square.flags.c_contiguous
