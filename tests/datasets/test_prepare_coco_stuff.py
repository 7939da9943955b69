"""Curated list of COCO from label images: the rule, the file, and what is said about it."""

import hashlib
import sys

import numpy as np
import pytest
from builders import load_script
from PIL import Image

from densessl.data.datasets.coco_stuff import coco_stuff_classes
from densessl.data.datasets.semantic import build_curated_coco
from densessl.errors import DataError

script = load_script("prepare_coco_stuff")


def write_labels(root, shapes_and_shares):
    folder = root / "stuffthingmaps/val2017"
    folder.mkdir(parents=True)
    for index, (shape, share) in enumerate(shapes_and_shares, 1):
        labels = np.zeros(shape, np.uint8)  # persons
        labels.ravel()[: int(np.ceil(share * labels.size))] = 156  # sky
        Image.fromarray(labels).save(folder / f"{index:012d}.png")


def test_list_is_written_and_read(tmp_path, monkeypatch):
    write_labels(tmp_path, [((360, 360), 0.75), ((359, 500), 1.0), ((400, 400), 0.74), ((500, 360), 1.0)])
    monkeypatch.setattr(sys, "argv", ["x", "--root", str(tmp_path), "--split", "val2017", "--jobs", "1"])
    said = script.main()
    assert "2 of 4 images; not the published list" in said
    path = tmp_path / "curated/val2017/Coco164kFull_Stuff_Coarse_7.txt"
    assert path.read_text() == "000000000001\n000000000004\n"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    (tmp_path / "val2017").mkdir()
    for index in (1, 4):
        (tmp_path / f"val2017/{index:012d}.jpg").touch()
    assert len(build_curated_coco("val2017", root=str(tmp_path))) == 2
    known = coco_stuff_classes()["curated_lists"]["val2017"]
    monkeypatch.setitem(known, "sha256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert "; the published list" in script.main()


def test_nothing_to_take(tmp_path):
    with pytest.raises(DataError, match="no label images in"):
        script.build(tmp_path, "val2017", 1)
    write_labels(tmp_path, [((100, 100), 1.0)])
    with pytest.raises(DataError, match="none of the 1 label images"):
        script.build(tmp_path, "val2017", 1)
