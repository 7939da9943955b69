"""Copies of a validation picture are found under any name, encoding and size; other pictures are not."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from densessl.benchmark.leaks import (
    MAX_BITS,
    distances,
    find_leaks,
    perceptual_hash,
    refuse_leaks,
    thumbnail_difference,
)
from densessl.data.sources import build_image_source
from densessl.errors import DataError

PICTURES = ("astronaut", "coffee", "rocket")  # shipped inside scikit-image


def save(pixels, path, **options):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return {"file_name": str(path), "image_id": path.name}


def resized(pixels, width, height):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def validation(tmp_path):
    return [save(getattr(data, name)(), tmp_path / "val" / f"{name}.png") for name in PICTURES]


def leaks(folder, validation):
    source = build_image_source(str(folder))
    return find_leaks((source[i] for i in range(len(source))), validation)


def test_hash_by_hand():
    # 8 columns of 9 grow brighter to the right: every dHash bit set; aHash: the right half of 8
    ramp = (
        np.repeat(np.arange(9, dtype=np.uint8)[None, :, None] * 25, 8, 0)
        .repeat(8, 0)
        .repeat(8, 1)
        .repeat(3, 2)
    )
    bits = np.unpackbits(perceptual_hash(ramp))
    assert bits[:64].all()
    assert np.array_equal(bits[64:].reshape(8, 8), np.tile([0, 0, 0, 0, 1, 1, 1, 1], (8, 1)))
    assert not np.unpackbits(perceptual_hash(ramp[:, ::-1]))[:64].any()


def test_distances_count_bits():
    rng = np.random.default_rng(0)
    first, second = (
        rng.integers(0, 256, (5, 16), dtype=np.uint8),
        rng.integers(0, 256, (3, 16), dtype=np.uint8),
    )
    slow = [[int((np.unpackbits(a) != np.unpackbits(b)).sum()) for b in second] for a in first]
    assert distances(first, second).tolist() == slow


def test_the_same_file_by_any_path(tmp_path, validation):
    train = tmp_path / "train"
    train.mkdir()
    (train / "link.png").symlink_to(tmp_path / "val/coffee.png")
    save(data.chelsea(), train / "cat.png")
    (leak,) = leaks(train, validation)
    assert leak.training == str(train / "link.png")
    assert (leak.validation, leak.how) == (validation[1]["file_name"], "the same file")


@pytest.mark.parametrize(
    ("suffix", "options", "change"),
    [
        ("jpg", {"quality": 30}, lambda pixels: pixels),
        ("png", {}, lambda pixels: pixels),
        ("jpg", {"quality": 85}, lambda pixels: resized(pixels, pixels.shape[1] // 3, pixels.shape[0] // 3)),
        ("webp", {"quality": 50}, lambda pixels: resized(pixels, 160, 120)),
        ("png", {}, lambda pixels: np.clip(pixels * 1.1 + 5, 0, 255).astype(np.uint8)),
    ],
)
def test_copies_are_found(tmp_path, validation, suffix, options, change):
    for name in PICTURES:
        save(change(getattr(data, name)()), tmp_path / "train" / f"copy of {name}.{suffix}", **options)
    found = {
        leak.training.split("copy of ")[1].split(".")[0]: leak.validation
        for leak in leaks(tmp_path / "train", validation)
    }
    assert found == {name: record["file_name"] for name, record in zip(PICTURES, validation)}


def test_other_pictures_are_not_found(tmp_path, validation):
    train = tmp_path / "train"
    for name in ("chelsea", "retina", "hubble_deep_field", "immunohistochemistry"):
        save(getattr(data, name)(), train / f"{name}.png")
    save(data.coffee()[:, ::-1], train / "mirrored.png")
    save(np.zeros((50, 50, 3), np.uint8), train / "black.png")
    save(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8), train / "noise.png")
    assert leaks(train, validation) == []


def test_plain_pictures_agree_in_the_hash_but_not_in_the_thumbnail(tmp_path):
    black, white = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 255, np.uint8)
    assert distances(perceptual_hash(black)[None], perceptual_hash(white)[None])[0, 0] <= MAX_BITS
    assert thumbnail_difference(black, white) == 255.0
    held_out = [save(black, tmp_path / "val/black.png")]
    assert find_leaks([save(white, tmp_path / "train/white.png")], held_out) == []


def test_packed_images_are_hashed_and_not_compared_by_name(tmp_path, validation):
    stream = io.BytesIO()
    Image.fromarray(data.coffee()).save(stream, "JPEG")
    packed = {"file_name": validation[0]["file_name"], "image_bytes": stream.getvalue()}
    (leak,) = find_leaks([packed], validation)
    assert leak.validation == validation[1]["file_name"]


def test_the_error_names_both_files(tmp_path, validation):
    copy = save(data.rocket(), tmp_path / "train/r.jpg")
    with pytest.raises(
        DataError, match=r"my photos: 1 of its pictures .*train/r.jpg is .*val/rocket.png \(\d+ of 128"
    ):
        refuse_leaks("my photos", [copy], validation)
    refuse_leaks("my photos", [save(data.chelsea(), tmp_path / "train/c.jpg")], validation)
