"""The cut-and-paste builder on small .deb files made here."""

import json
import sys

import numpy as np
import pytest
from builders import fake_photos_deb, fake_stamps_deb, load_script, noisy_disc
from PIL import Image

from densessl.data.datasets.sample_writer import build_atomically, segmentation_to_mask
from densessl.errors import DataError

cutpaste = load_script("prepare_cutpaste")
CLASSES = ("bird", "fish")
RECIPE = cutpaste.Recipe(size=96, objects=(2, 5), scale=(0.3, 0.6), max_occlusion=0.5, seed=3)


@pytest.fixture(scope="module")
def debs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debs")
    return fake_stamps_deb(folder), fake_photos_deb(folder)


@pytest.fixture(scope="module")
def built(debs, tmp_path_factory):
    return build_set(debs, tmp_path_factory.mktemp("cutpaste") / "cutpaste", RECIPE, 12)


def build_set(debs, output, recipe, images):
    counts = {"train": images, "val": 6}
    build_atomically(output, lambda folder: cutpaste.build(folder, recipe, counts, CLASSES, *debs))
    return output


def read(folder, split):
    return json.loads((folder / "annotations" / f"instances_{split}.json").read_text())


def test_masks_are_disjoint_and_equal_area_box_and_semantic_map(built):
    for split in ("train", "val"):
        document = read(built, split)
        assert document["annotations"]
        for image in document["images"]:
            covered = np.zeros((96, 96), int)
            semantic = np.zeros((96, 96), np.uint8)
            for annotation in (a for a in document["annotations"] if a["image_id"] == image["id"]):
                mask = segmentation_to_mask(annotation["segmentation"], 96, 96)
                y, x = np.nonzero(mask)
                box = [x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()]
                assert annotation["bbox"] == box
                assert annotation["area"] == mask.sum()
                assert 1 - RECIPE.max_occlusion <= annotation["visible_fraction"] <= 1
                covered += mask
                semantic[mask] = annotation["category_id"]
            assert covered.max() <= 1
            stem = image["file_name"].removesuffix(".jpg")
            assert np.array_equal(np.asarray(Image.open(built / f"semantic/{split}/{stem}.png")), semantic)


def test_masks_follow_what_is_seen():
    # opaque discs of one colour per class on black: the picture itself says which pixel is whose
    colours = ((255, 0, 0), (0, 0, 255))
    cutouts = []
    for colour in colours:
        disc = Image.new("RGBA", (100, 100), (*colour, 255))
        disc.putalpha(noisy_disc(0).getchannel("A"))
        cutouts.append([("disc", disc)])
    recipe = cutpaste.Recipe(size=128, objects=(5, 5), scale=(0.3, 0.5), max_occlusion=0.6, seed=0)
    occluded = 0
    for seed in range(8):
        background = Image.new("RGB", (128, 128))
        picture, objects = cutpaste.compose(background, cutouts, recipe, np.random.default_rng(seed))
        pixels = np.asarray(picture).astype(int)
        for category, colour in enumerate(colours):
            truth = np.abs(pixels - colour).max(-1) <= 2  # opaque core; edges are mixed with black
            masks = [o.mask for o in objects if o.category == category]
            painted = np.any(masks, axis=0) if masks else np.zeros_like(truth)
            assert not (truth & ~painted).any()
            assert (pixels[painted][:, 2 * category] > 100).all()
        occluded += sum(bool(o.mask.sum() < 0.95 * o.full_area) for o in objects)
    assert occluded > 5


def test_splits_share_no_cutout_and_no_background(built, debs):
    used = {s: {a["cutout"] for a in read(built, s)["annotations"]} for s in ("train", "val")}
    assert used["train"]
    assert used["val"]
    assert not used["train"] & used["val"]
    assert not any("cartoon" in name or "flat" in name for names in used.values() for name in names)
    items = list(range(10))
    train, val = cutpaste.select_split(items, "train"), cutpaste.select_split(items, "val")
    assert val == [3, 7]
    assert sorted(train + val) == items


def test_same_seed_same_bytes_and_a_longer_set_begins_with_the_shorter(built, debs, tmp_path):
    again = build_set(debs, tmp_path / "again", RECIPE, 12)
    assert (again / "SHA256SUMS").read_text() == (built / "SHA256SUMS").read_text()
    longer = build_set(debs, tmp_path / "longer", RECIPE, 14)
    name = "images/train/train_00011.jpg"
    assert (longer / name).read_bytes() == (built / name).read_bytes()
    other = build_set(debs, tmp_path / "other", cutpaste.Recipe(96, (2, 5), (0.3, 0.6), 0.5, 4), 12)
    assert (other / name).read_bytes() != (built / name).read_bytes()


def test_packages_that_do_not_fit_are_refused(debs, tmp_path):
    with pytest.raises(DataError, match="'coin' has 0 cut-outs"):
        cutpaste.read_packages(*debs, ["coin"])
    with pytest.raises(DataError, match="explore_monuments"):
        cutpaste.read_packages(debs[0], debs[0], CLASSES)
    with pytest.raises(DataError, match="no such file"):
        cutpaste.read_packages(tmp_path / "absent.deb", debs[1], CLASSES)
    broken = tmp_path / "broken.deb"
    broken.write_bytes(b"no archive")
    with pytest.raises(DataError, match="could not unpack"):
        cutpaste.read_packages(broken, debs[1], CLASSES)


def test_without_apt_the_options_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="--stamps-deb"):
        cutpaste.fetch_deb(cutpaste.STAMPS_PACKAGE, tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [["--classes", "bird,unicorn"], ["--objects", "5", "2"], ["--scale", "0", "1"], ["--images", "0"]],
)
def test_wrong_options_are_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prepare_cutpaste.py", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        cutpaste.parse_args()
    assert exit_info.value.code == 2
    assert arguments[0] in capsys.readouterr().err
