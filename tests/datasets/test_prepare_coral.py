"""The coral builder on a small stand-in for the published archive."""

import json

import numpy as np
import pytest
from builders import fake_sdist, load_script
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from shapely.geometry import Polygon

from densessl.data.datasets import sample  # noqa: F401  registers the names
from densessl.data.datasets.sample_writer import build_atomically, segmentation_to_mask, sha256_of
from densessl.errors import DataError

coral = load_script("prepare_coral")
TILE = 80  # 400 / 80: a grid of 5 x 5


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("coral")
    sdist = fake_sdist(root / "sdist.tar.gz")
    sha = sha256_of(sdist)
    build_atomically(root / "coral", lambda folder: coral.build(folder, TILE, sdist, sha))
    return root


def read(root, split):
    return json.loads((root / "coral" / "annotations" / f"instances_{split}.json").read_text())


def test_tiles_cover_the_picture_once(built):
    seen = np.zeros((400, 400), int)
    for split in ("train", "val"):
        for image in read(built, split)["images"]:
            x0, y0, x1, y1 = image["tile_box"]
            seen[y0:y1, x0:x1] += 1
            assert (image["width"], image["height"]) == (x1 - x0, y1 - y0)
            with Image.open(built / "coral/images" / split / image["file_name"]) as tile:
                assert tile.size == (x1 - x0, y1 - y0)
    assert np.all(seen == 1)


def test_five_held_out_tiles_one_in_every_row_and_column(built):
    boxes = [image["tile_box"] for image in read(built, "val")["images"]]
    assert len(boxes) == len({b[0] for b in boxes}) == len({b[1] for b in boxes}) == 5


def test_annotations_are_valid_coco_and_every_class_is_in_both_splits(built):
    for split in ("train", "val"):
        document = read(built, split)
        sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
        ids = [a["id"] for a in document["annotations"]]
        assert len(set(ids)) == len(ids)
        assert {a["category_id"] for a in document["annotations"]} == {1, 2, 3, 4}
        for annotation in document["annotations"]:
            height, width = sizes[annotation["image_id"]]
            x, y, w, h = annotation["bbox"]
            assert 0 <= x < x + w <= width
            assert 0 <= y < y + h <= height
            mask = segmentation_to_mask(annotation["segmentation"], height, width)
            assert mask.sum() == annotation["area"] > 0
            assert annotation["iscrowd"] == 0  # every square lies whole in its tile


def test_registered_names_load_through_detectron2(built, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(built))
    try:
        records = DatasetCatalog.get("coral_val")
        metadata = MetadataCatalog.get("coral_val")
        assert len(records) == 5
        assert {a["category_id"] for r in records for a in r["annotations"]} == {0, 1, 2, 3}
        semantic = np.asarray(Image.open(records[0]["sem_seg_file_name"]))
        assert set(np.unique(semantic)) <= set(range(len(metadata.stuff_classes)))
        assert metadata.thing_classes == list(coral.CATEGORIES)
    finally:  # the metadata refuse another path later
        MetadataCatalog.pop("coral_val")
        MetadataCatalog.get("coral_val").set(evaluator_type="coco", ignore_label=255)


def test_missing_set_names_the_builder(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DataError, match="prepare_coral.py"):
        DatasetCatalog.get("coral_train")
    with pytest.raises(DataError, match="prepare_stereo.py"):
        DatasetCatalog.get("stereo")


def test_same_input_same_bytes(built, tmp_path):
    sdist = built / "sdist.tar.gz"
    build_atomically(tmp_path / "again", lambda folder: coral.build(folder, TILE, sdist, sha256_of(sdist)))
    assert (tmp_path / "again/SHA256SUMS").read_text() == (built / "coral/SHA256SUMS").read_text()


def test_polygons_are_clipped_to_the_tile():
    square = Polygon([(50, 50), (150, 50), (150, 150), (50, 150)])
    (ring,) = coral.clip_to_tile(square, (100, 100, 200, 200))
    points = np.array(ring).reshape(-1, 2)
    assert Polygon(points).area == 2500
    assert points.min() == 0
    assert points.max() == 50
    # a colony that leaves the tile and comes back is two polygons of one instance
    comb = Polygon([(0, 0), (90, 0), (90, 30), (10, 30), (10, 60), (90, 60), (90, 90), (0, 90)])
    assert len(coral.clip_to_tile(comb, (40, 0, 100, 100))) == 2
    assert coral.clip_to_tile(square, (135, 135, 200, 200)) == []  # 225 square pixels: a sliver


def test_a_small_piece_of_a_large_colony_is_a_crowd_region():
    colony = Polygon([(20, 20), (130, 20), (130, 90), (20, 90)])  # 30 pixels of 110 in the second tile
    alone = Polygon([(150, 150), (180, 150), (180, 180), (150, 180)])
    first, second, _, fourth = coral.cut_tiles(200, 200, [(0, colony), (1, alone)], 100)
    assert [(p.category, p.crowd) for p in first.pieces] == [(0, False)]
    assert [(p.category, p.crowd) for p in second.pieces] == [(0, False)]  # 27 per cent of it
    assert [(p.category, p.crowd) for p in fourth.pieces] == [(1, False)]
    longer = Polygon([(0, 20), (130, 20), (130, 90), (0, 90)])
    _, second, _, _ = coral.cut_tiles(200, 200, [(0, longer)], 100)
    assert [(p.category, p.crowd) for p in second.pieces] == [(0, True)]  # 23 per cent


def test_the_phase_serves_the_rarest_class():
    piece = [coral.Piece(category, [], False) for category in range(4)]
    tiles = [coral.Tile(0, c, (0, 0, 1, 1), piece[:3] + piece[3:] * (c == 3)) for c in range(5)]
    assert coral.choose_phase(tiles) == 3


def test_wrong_archives_are_refused(built, tmp_path):
    with pytest.raises(DataError, match="sha256"):
        coral.read_sdist(built / "sdist.tar.gz")
    with pytest.raises(DataError, match="no such file"):
        coral.read_sdist(tmp_path / "absent.tar.gz")
    with pytest.raises(DataError, match="line 2"):
        coral.parse_yolo_polygons("0 0 0 1 0 1 1\n9 0 0 1 0 1 1", 10, 10)
    sdist = built / "sdist.tar.gz"
    with pytest.raises(DataError, match="--tile-size"):
        coral.build(tmp_path, 400, sdist, sha256_of(sdist))
