"""Views of labelled images: the published test crops, the law of the training crop, AlexNet's colour "
"shift."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from densessl.data.dataset_mappers import CenterCropMapper, RandomCropMapper, SquareMapper, collate_labelled
from densessl.data.transforms import PhotometricAugmentation
from densessl.errors import ConfigError


@pytest.fixture(params=[(300, 411), (260, 200), (97, 500)], ids=str)
def record(request, tmp_path):
    """A smooth picture of (h, w) and its record."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = small.resize(request.param[::-1], Image.Resampling.BICUBIC)
    image.save(tmp_path / "a.png")
    return {"file_name": str(tmp_path / "a.png"), "image_id": "a", "label": 3}


def close_to_pil(view, expected):
    difference = (view.int() - torch.from_numpy(np.array(expected)).permute(2, 0, 1).int()).abs()
    return view.shape == difference.shape and difference.max() <= 1


def test_test_views_equal_those_of_the_originals(record):
    image = Image.open(record["file_name"])
    view = CenterCropMapper(256, 224)(record)
    expected = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
    assert close_to_pil(view["image"], expected)
    assert view["image"].dtype == torch.uint8
    assert (view["label"], view["image_id"]) == (3, "a")
    expected = transforms.Compose([transforms.Resize(256), transforms.Resize((224, 224))])(image)
    view = SquareMapper(256, 224)(record)["image"]
    # resized twice: each rounds
    difference = (view.int() - torch.from_numpy(np.array(expected)).permute(2, 0, 1).int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 0.2


def test_training_view_is_a_function_of_the_generator(record):
    mapper = RandomCropMapper(crop_size=64)
    views = [mapper(record, rng=np.random.default_rng(seed))["image"] for seed in (1, 1, 2)]
    assert views[0].shape == (3, 64, 64)
    assert views[0].dtype == torch.uint8
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_lighting_adds_a_colour_along_the_principal_axes(tmp_path):
    Image.new("RGB", (12, 12), (90, 120, 150)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "image_id": "a", "label": 0}
    kwargs = {"crop_size": 8, "photometric": PhotometricAugmentation(hue=0.0, blur_prob=0.0)}
    shifts = []
    for seed in range(1000):
        rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
        view = RandomCropMapper(**kwargs, lighting_std=0.1)(record, rng=rng)["image"]
        shift = view - RandomCropMapper(**kwargs)(record, rng=same)["image"]
        assert view.dtype == torch.float32
        assert torch.allclose(
            shift, shift[:, :1, :1].expand_as(shift), atol=1e-3
        )  # one colour for all pixels
        shifts.append(shift[:, 0, 0].double().numpy())
    # covariance of the shift: axes diag((0.1 * 255 * std)^2) axes^T, Lighting in OpenSelfSup's transforms.py
    axes = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    expected = axes @ np.diag((25.5 * np.array([0.2175, 0.0188, 0.0045])) ** 2) @ axes.T
    np.testing.assert_allclose(np.cov(np.array(shifts).T), expected, atol=0.15 * expected.max())
    np.testing.assert_allclose(np.mean(shifts, axis=0), 0, atol=0.5)


def test_collate(record):
    samples = [RandomCropMapper(crop_size=16)(record, rng=np.random.default_rng(i)) for i in range(3)]
    batch = collate_labelled(samples)
    assert batch["image"].shape == (3, 3, 16, 16)
    assert batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == [3, 3, 3]
    assert batch["image_id"] == ["a"] * 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomCropMapper(crop_size=0), "crop_size"),
        (lambda: RandomCropMapper(crop_scale=(0.5, 0.2)), "crop_scale"),
        (lambda: RandomCropMapper(lighting_std=-1), "lighting_std"),
        (lambda: CenterCropMapper(200, 224), "crop_size=224"),
        (lambda: SquareMapper(0), "short_edge=0"),
    ],
)
def test_impossible_values(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
