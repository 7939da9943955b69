"""Random resized crop: torchvision's law, PIL's pixels, degenerate images."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from skimage import data
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from densessl.data.geometry import ViewGeometry
from densessl.data.transforms import crop_view, draw_crop_box, draw_view


@pytest.mark.parametrize(
    ("image_size", "scale"), [((480, 640), (0.2, 1.0)), ((100, 700), (0.08, 1.0)), ((70, 60), (0.9, 1.0))]
)
def test_law_is_torchvisions(image_size, scale):
    count = 3000
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    ours = np.array([draw_crop_box(image_size, rng, scale) for _ in range(count)], float)
    image = torch.empty(3, *image_size)
    drawn = [RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(count)]
    top, left, height, width = np.array(drawn, float).T
    x0, y0, x1, y1 = ours.T
    statistics = {"x0": (x0, left), "y0": (y0, top), "x1": (x1, left + width), "y1": (y1, top + height)}
    statistics["area"] = (x1 - x0) * (y1 - y0), height * width
    statistics["ratio"] = (x1 - x0) / (y1 - y0), width / height
    for name, (mine, theirs) in statistics.items():
        assert ks_2samp(mine, theirs).pvalue > 1e-3, name


@pytest.mark.parametrize("image_size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (1, 2)])
def test_degenerate_images(image_size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*image_size, 3), dtype=np.uint8)
    for _ in range(50):
        x0, y0, x1, y1 = draw_crop_box(image_size, rng)
        assert 0 <= x0 < x1 <= image_size[1]
        assert 0 <= y0 < y1 <= image_size[0]
    view = crop_view(image, draw_view(image_size, rng, (32, 32)))
    assert view.shape == (3, 32, 32)
    assert view.dtype == np.uint8


def test_fallback_is_torchvisions_central_crop():
    # A crop of at least 0.9 of a 10 : 1 image never fits within ratio 4 / 3.
    box = draw_crop_box((60, 600), np.random.default_rng(0), (0.9, 1.0))
    top, left, height, width = RandomResizedCrop.get_params(torch.empty(3, 60, 600), [0.9, 1], [3 / 4, 4 / 3])
    assert box == (left, top, left + width, top + height) == (260, 0, 340, 60)
    tall = draw_crop_box((600, 60), np.random.default_rng(0), (0.9, 1.0))
    assert tall == (0, 260, 60, 340)


def test_pixels_are_pils():
    image = np.array(data.astronaut())
    rng = np.random.default_rng(0)
    flips = 0
    for _ in range(20):
        g = draw_view(image.shape[:2], rng, (224, 224))
        size = (int(g.y0), int(g.x0), int(g.y1 - g.y0), int(g.x1 - g.x0))
        expected = TF.resized_crop(Image.fromarray(image), *size, [224, 224])  # bilinear, antialiased
        expected = TF.hflip(expected) if g.flip else expected
        difference = crop_view(image, g).transpose(1, 2, 0).astype(int) - np.asarray(expected)
        assert np.abs(difference).max() <= 1
        assert np.abs(difference).mean() < 0.25
        flips += g.flip
    assert 0 < flips < 20


@pytest.mark.parametrize("flip", [False, True])
def test_result_owns_its_memory(flip):
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    before = image.copy()
    view = crop_view(image, ViewGeometry((8, 8), 0, 0, 8, 8, (8, 8), flip))
    assert view.flags.c_contiguous
    view[:] = 0
    np.testing.assert_array_equal(image, before)


def test_flip_probability_and_refusals():
    rng = np.random.default_rng(0)
    assert all(draw_view((9, 9), rng, (4, 4), flip_prob=1.0).flip for _ in range(20))
    assert not any(draw_view((9, 9), rng, (4, 4), flip_prob=0.0).flip for _ in range(20))
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="whole pixels"):
        crop_view(image, ViewGeometry((8, 8), 0.5, 0, 8, 8, (8, 8)))
    with pytest.raises(ValueError, match="geometry for"):
        crop_view(image, ViewGeometry((8, 9), 0, 0, 8, 8, (8, 8)))
