"""Two-view mapper and collate: form of samples and batches, determinism, degenerate images."""

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from densessl.data.build import build_train_loader
from densessl.data.dataset_mappers import TwoViewMapper, collate_views
from densessl.data.geometry import ViewGeometry
from densessl.data.transforms import PhotometricAugmentation, apply_to_view, crop_view
from densessl.errors import ConfigError, DataError
from densessl.layers.photometric import NUM_PARAMS


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[dict]:
    """Three photographs as JPEG files."""
    root = tmp_path_factory.mktemp("photographs")
    records = []
    for index, image in enumerate((data.astronaut, data.coffee, data.chelsea)):
        path = root / f"{index}.jpg"
        Image.fromarray(image()).save(path, quality=90)
        records.append({"file_name": str(path), "image_id": index})
    return records


def mapper(**options) -> TwoViewMapper:
    return TwoViewMapper(**{"crop_size": 64, "photometric": PhotometricAugmentation(), **options})


def assert_same(a, b):
    assert a.keys() == b.keys()
    for first, second in zip(a["views"], b["views"]):
        assert torch.equal(first, second)
    assert a["geometry"] == b["geometry"]


def test_sample(records):
    sample = mapper()(records[1], rng=np.random.default_rng(0))
    assert list(sample) == ["file_name", "image_id", "views", "geometry"]
    assert (sample["file_name"], sample["image_id"]) == (records[1]["file_name"], 1)
    assert len(sample["views"]) == len(sample["geometry"]) == 2
    for view, geometry in zip(sample["views"], sample["geometry"]):
        assert view.shape == (3, 64, 64)
        assert view.dtype == torch.uint8
        assert view.is_contiguous()
        assert isinstance(geometry, ViewGeometry)
        assert geometry.image_size == data.coffee().shape[:2]
        assert geometry.output_size == (64, 64)
    assert sample["geometry"][0] != sample["geometry"][1]
    assert not torch.equal(*sample["views"])


def test_depends_on_the_generator_alone(records):
    first = mapper()(records[0], rng=np.random.default_rng(5))
    torch.manual_seed(99)
    np.random.seed(99)
    assert_same(first, mapper()(records[0], rng=np.random.default_rng(5)))
    other = mapper()(records[0], rng=np.random.default_rng(6))
    assert not torch.equal(first["views"][0], other["views"][0])


def test_geometry_names_the_pixels(records):
    plain = mapper(photometric=None)(records[0], rng=np.random.default_rng(0))
    image = np.array(Image.open(records[0]["file_name"]))
    for view, geometry in zip(plain["views"], plain["geometry"]):
        np.testing.assert_array_equal(view.numpy(), crop_view(image, geometry))


def test_device_mode_draws_what_cpu_mode_applies(records):
    on_cpu = mapper()(records[0], rng=np.random.default_rng(7))
    on_device = mapper(photometric_on="device")(records[0], rng=np.random.default_rng(7))
    assert on_cpu["geometry"] == on_device["geometry"]
    for applied, view, params in zip(on_cpu["views"], on_device["views"], on_device["photometric"]):
        assert params.shape == (NUM_PARAMS,)
        assert params.dtype == torch.float32
        np.testing.assert_array_equal(apply_to_view(view.numpy(), params.numpy()), applied.numpy())


@pytest.mark.parametrize("photometric_on", ["cpu", "device"])
def test_collate(records, photometric_on):
    map_record = mapper(photometric_on=photometric_on)
    samples = [map_record(record, rng=np.random.default_rng(0)) for record in records]
    for index, sample in enumerate(samples):
        sample["sample"] = (4, index)
    batch = collate_views(samples)
    assert batch["sample"] == [(4, 0), (4, 1), (4, 2)]
    assert batch["image_id"] == [0, 1, 2]
    assert batch["file_name"] == [record["file_name"] for record in records]
    assert ("photometric" in batch) == (photometric_on == "device")
    for v in range(2):
        assert batch["views"][v].shape == (3, 3, 64, 64)
        assert batch["views"][v].dtype == torch.uint8
        for n, sample in enumerate(samples):
            assert torch.equal(batch["views"][v][n], sample["views"][v])
            assert batch["geometry"][v][n] == sample["geometry"][v]
            if photometric_on == "device":
                assert torch.equal(batch["photometric"][v][n], sample["photometric"][v])


def test_through_the_loader_workers_do_not_matter(records):
    batches = []
    for num_workers in (0, 2):
        loader = build_train_loader(
            records, mapper(), 3, seed=3, num_workers=num_workers, collate_fn=collate_views
        )
        batches.append(next(iter(loader)))
    assert batches[0]["sample"] == batches[1]["sample"]
    assert_same(*batches)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_degenerate_images(tmp_path, size):
    path = tmp_path / "image.png"
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)
    for photometric_on in ("cpu", "device"):
        record = {"file_name": str(path), "image_id": 0}
        sample = mapper(photometric_on=photometric_on)(record, rng=np.random.default_rng(0))
        assert all(view.shape == (3, 64, 64) for view in sample["views"])
        if photometric_on == "device":
            assert all((view == 90).all() for view in sample["views"])


def test_unreadable_image(tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("no image")
    with pytest.raises(DataError, match=r"text\.jpg"):
        mapper()({"file_name": str(path), "image_id": 0}, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    "options",
    [{"photometric_on": "gpu"}, {"crop_size": 0}, {"crop_scale": (1.0, 0.2)}, {"crop_ratio": (0.0, 1.0)}],
)
def test_refuses_impossible_options(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        mapper(**options)
