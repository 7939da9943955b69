"""Atomic, checksummed data sets; COCO fields and semantic maps."""

import errno
import json

import numpy as np
import pytest
from builders import noisy_disc
from PIL import Image

from densessl.data.datasets.sample_writer import (
    CHECKSUMS,
    CocoWriter,
    build_atomically,
    mask_to_rle,
    pip_download,
    segmentation_to_mask,
    semantic_map,
    verify_checksums,
)
from densessl.errors import DataError


def write_one(folder):
    (folder / "a.txt").write_text("a")
    return "one file"


def test_a_finished_set_is_verified_and_left_alone(tmp_path):
    output = tmp_path / "set"
    assert "one file" in build_atomically(output, write_one)
    before = (output / CHECKSUMS).stat().st_mtime_ns
    assert "already there" in build_atomically(output, lambda folder: pytest.fail("built again"))
    assert (output / CHECKSUMS).stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", ["change", "remove", "unlist"])
def test_a_damaged_set_is_refused(tmp_path, damage):
    output = tmp_path / "set"
    build_atomically(output, write_one)
    if damage == "change":
        (output / "a.txt").write_text("b")
    elif damage == "remove":
        (output / "a.txt").unlink()
    else:
        (output / CHECKSUMS).unlink()
    with pytest.raises(DataError, match="rebuild"):
        build_atomically(output, write_one)


def test_a_failed_build_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half.txt").write_text("half")
        raise DataError("stopped")

    with pytest.raises(DataError, match="stopped"):
        build_atomically(tmp_path / "set", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_named_and_leaves_nothing(tmp_path):
    def fill(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DataError, match="cannot be built .*No space left on device.* bytes are free"):
        build_atomically(tmp_path / "set", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--output"):
        build_atomically(tmp_path / "file" / "set", write_one)


def test_coco_fields_and_semantic_map(tmp_path):
    writer = CocoWriter(tmp_path, "train", ("big", "small"), "test")
    image_id = writer.add_image(Image.new("RGB", (20, 10)), "x.jpg")
    writer.add_instance(image_id, 1, [[4.0, 4.0, 8.0, 4.0, 8.0, 6.0, 4.0, 6.0]])
    mask = np.zeros((10, 20), bool)
    mask[2:8, 2:12] = True
    writer.add_instance(image_id, 0, mask_to_rle(mask))
    assert writer.write() == {"big": 1, "small": 1}
    document = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    small, big = document["annotations"]
    assert (small["area"], small["bbox"], small["category_id"]) == (8.0, [4.0, 4.0, 4.0, 2.0], 2)
    assert (big["area"], big["bbox"], big["iscrowd"]) == (60.0, [2.0, 2.0, 10.0, 6.0], 0)
    semantic = np.asarray(Image.open(tmp_path / "semantic/train/x.png"))
    expected = np.where(mask, 1, 0)
    expected[4:6, 4:8] = 2  # the smaller one lies on top
    assert np.array_equal(semantic, expected)


def test_rle_keeps_every_pixel():
    mask = np.asarray(noisy_disc(0).getchannel("A")) > 127
    rle = json.loads(json.dumps(mask_to_rle(mask)))
    assert np.array_equal(segmentation_to_mask(rle, *mask.shape), mask)
    assert semantic_map([], 3, 5).shape == (3, 5)


def test_failed_download_names_the_way_out(tmp_path):
    with pytest.raises(DataError, match="pass the file itself"):
        pip_download("yolo-tiling==0.0.31", tmp_path, "--no-index")


def test_verify_counts_files(tmp_path):
    build_atomically(tmp_path / "set", write_one)
    assert verify_checksums(tmp_path / "set") == 2  # a.txt, README.txt


def test_all_forms_of_a_segmentation_give_one_mask():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 2:4] = True
    runs = {"size": [4, 5], "counts": [9, 2, 2, 2, 5]}  # column by column
    polygons = [[2, 1, 4, 1, 4, 3, 2, 3]]
    for segmentation in (runs, mask_to_rle(mask), polygons):
        np.testing.assert_array_equal(segmentation_to_mask(segmentation, 4, 5), mask)
