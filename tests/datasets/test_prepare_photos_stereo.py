"""The builders that read the installed scikit-image."""

import json

import numpy as np
import pytest
from builders import load_script
from detectron2.data import DatasetCatalog
from PIL import Image

from densessl.data.datasets import sample  # noqa: F401  registers the names
from densessl.data.datasets.sample_writer import build_atomically
from densessl.errors import DataError

photos = load_script("prepare_photos")
stereo = load_script("prepare_stereo")


def test_photographs_open_and_exclude_the_stereo_pair(tmp_path, monkeypatch):
    build_atomically(tmp_path / "photos", photos.build)
    files = sorted((tmp_path / "photos/images").iterdir())
    assert [f.name for f in files] == sorted(photos.PHOTOGRAPHS)
    assert not any("motorcycle" in f.name for f in files)
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) >= 160
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert [r["file_name"] for r in DatasetCatalog.get("photos")] == [str(f) for f in files]


def test_disparity_explains_the_pair(tmp_path, monkeypatch):
    build_atomically(tmp_path / "stereo", stereo.build)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    (record,) = DatasetCatalog.get("stereo")
    left, right = (np.asarray(Image.open(record[k])) for k in ("file_name", "right_file_name"))
    with np.load(record["disparity_file_name"]) as archive:
        disparity = archive["disparity"]
    assert disparity.dtype == np.float32
    assert disparity.shape == left.shape[:2] == (record["height"], record["width"])
    matched, same_place = stereo.photometric_error(left, right, disparity)
    assert matched < 0.25 * same_place
    # the other sign explains nothing: the convention is the one written down
    assert stereo.photometric_error(left, right, -disparity)[0] > 3 * matched
    facts = json.loads((tmp_path / "stereo/stereo.json").read_text())
    assert facts["valid_fraction"] == pytest.approx(np.isfinite(disparity).mean(), abs=1e-3)


def test_photometric_error_on_paper():
    left = np.zeros((1, 3, 3), np.uint8)
    left[0, 2] = 90
    right = np.zeros((1, 3, 3), np.uint8)
    right[0, 1] = 90  # the left pixel at x = 2 has moved to x = 1
    disparity = np.array([[np.nan, np.nan, 1.0]])
    assert stereo.photometric_error(left, right, disparity) == (0.0, 90.0)


def test_a_wheel_without_the_files_is_named(tmp_path):
    with pytest.raises(DataError, match="scikit-image"):
        photos.require_file(tmp_path / "astronaut.png")
