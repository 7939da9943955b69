"""Colour and blur: against torchvision on PIL and on floats, CPU against device, and laws of drawing.

PIL and float torchvision are two roundings of the same operations; differences are in levels of 255.
"""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter
from scipy.stats import ks_2samp
from skimage import data
from torchvision.transforms import ColorJitter, RandomApply, RandomGrayscale
from torchvision.transforms import functional as TF

from densessl.data.transforms import PhotometricAugmentation, apply_to_view, crop_view, draw_view
from densessl.data.transforms import photometric as cpu
from densessl.errors import ConfigError
from densessl.layers.photometric import (
    BRIGHTNESS,
    CONTRAST,
    GRAYSCALE,
    HUE,
    NONE,
    NUM_PARAMS,
    ORDER,
    SATURATION,
    SIGMA,
    apply_photometric,
)

TORCHVISION = {
    BRIGHTNESS: TF.adjust_brightness,
    CONTRAST: TF.adjust_contrast,
    SATURATION: TF.adjust_saturation,
    HUE: TF.adjust_hue,
}
MOCO_V1 = {"jitter_prob": 1.0, "grayscale_first": True, "blur_prob": 0.0}


@pytest.fixture(scope="module")
def views() -> np.ndarray:
    """(12, 3, 96, 96) uint8: crops of photographs."""
    rng = np.random.default_rng(0)
    images = [np.array(image()) for image in (data.astronaut, data.coffee, data.chelsea)]
    return np.stack([crop_view(i, draw_view(i.shape[:2], rng, (96, 96))) for _ in range(4) for i in images])


def params_of(*order: int, sigma: float = 0.0, **factors: float) -> np.ndarray:
    """Parameters from a list of operations and their factors."""
    params = np.zeros(NUM_PARAMS, np.float32)
    params[[BRIGHTNESS, CONTRAST, SATURATION]] = 1.0
    for name, value in factors.items():
        params[
            {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION, "hue": HUE}[name]
        ] = value
    params[SIGMA] = sigma
    params[ORDER] = NONE
    params[ORDER][: len(order)] = order
    return params


def as_pil(view: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0)))


def as_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


def torchvision_float(view: np.ndarray, params: np.ndarray) -> np.ndarray:
    """The colour operations of torchvision on a float tensor; no blur. (3, H, W) in [0, 255]."""
    image = torch.from_numpy(view).double() / 255
    for code in params[ORDER].astype(int):
        if code == GRAYSCALE:
            image = TF.rgb_to_grayscale(image, 3)  # red weighs 0.2989 there, 0.299 in PIL and here
        elif code != NONE:
            image = TORCHVISION[code](image, float(params[code]))
    return image.numpy() * 255


def distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    difference = np.abs(np.asarray(a, float) - np.asarray(b, float))
    return float(difference.mean()), float(difference.max())


CASES = [(BRIGHTNESS, f) for f in (0.0, 0.6, 1.4)] + [(CONTRAST, f) for f in (0.0, 0.6, 1.4)]
CASES += [(SATURATION, f) for f in (0.0, 0.6, 1.4, 2.0)]


@pytest.mark.parametrize(("operation", "factor"), CASES)
def test_blend_matches_torchvision(views, operation, factor):
    params = params_of(operation)
    params[operation] = factor
    for view in views:
        result = apply_to_view(view, params)
        assert distance(result, as_array(TORCHVISION[operation](as_pil(view), factor)))[1] <= 1
        assert distance(result, torchvision_float(view, params))[1] <= 1


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.03, 0.1, 0.5])
def test_hue_matches_torchvision(views, turns):
    params = params_of(HUE, hue=turns)
    for view in views:
        result = apply_to_view(view, params)
        assert distance(result, torchvision_float(view, params))[1] <= 0.51
        mean, largest = distance(result, as_array(TF.adjust_hue(as_pil(view), turns)))
        assert mean <= 1.2  # PIL's 8-bit HSV
        assert largest <= 9


def test_hue_of_every_primary_and_gray():
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 0, 0], [7, 7, 7]], np.uint8)
    third = cpu.shift_hue(colors[None], 1 / 3)[0]
    np.testing.assert_array_equal(
        third, [[0, 255, 0], [0, 0, 255], [255, 0, 0], [0, 255, 255], [0, 0, 0], [7, 7, 7]]
    )
    np.testing.assert_array_equal(cpu.shift_hue(colors[None], 0.0)[0], colors)


def test_grayscale_matches_pil(views):
    for view in views:
        result = apply_to_view(view, params_of(GRAYSCALE))
        assert distance(result, as_array(TF.to_grayscale(as_pil(view), 3)))[1] <= 1
        assert (result[0] == result[1]).all()
        assert (result[0] == result[2]).all()


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0])
def test_blur_is_gaussian_and_near_pils_three_boxes(views, sigma):
    for view in views:
        result = apply_to_view(view, params_of(sigma=sigma))
        exact = gaussian_filter(view.astype(float), (0, sigma, sigma), mode="nearest", truncate=8.0)
        assert distance(result, exact)[1] <= 2.0  # rounding, and the kernel ends at 3 sigma
        mean, largest = distance(result, as_array(as_pil(view).filter(ImageFilter.GaussianBlur(sigma))))
        assert mean <= 1.0
        assert largest <= 32  # beside hard edges, where three boxes are no Gaussian


def test_blur_keeps_a_constant_image():
    view = np.full((3, 5, 40), 200, np.uint8)
    np.testing.assert_array_equal(apply_to_view(view, params_of(sigma=2.0)), view)
    result = apply_photometric(
        torch.from_numpy(view)[None].float(), torch.from_numpy(params_of(sigma=2.0))[None]
    )
    np.testing.assert_allclose(result[0], view, atol=1e-3)


@pytest.mark.parametrize("options", [{}, MOCO_V1], ids=["moco_v2", "moco_v1"])
def test_device_matches_torchvision_float(views, options):
    rng = np.random.default_rng(1)
    augmentation = PhotometricAugmentation(**{**options, "blur_prob": 0.0})
    batch = np.repeat(views, 4, axis=0)
    params = np.stack([augmentation.draw(rng) for _ in batch])
    result = apply_photometric(torch.from_numpy(batch).float(), torch.from_numpy(params)).numpy()
    expected = np.stack([torchvision_float(view, p) for view, p in zip(batch, params)])
    assert distance(result, expected)[1] <= 0.06


def test_device_blur_matches_exact_gaussian(views):
    sigmas = np.linspace(0.1, 2.0, len(views))
    params = torch.from_numpy(np.stack([params_of(sigma=s) for s in sigmas]))
    result = apply_photometric(torch.from_numpy(views[:, :, :60]).float(), params).numpy()
    for view, sigma, blurred in zip(views[:, :, :60], sigmas, result):
        exact = gaussian_filter(view.astype(float), (0, sigma, sigma), mode="nearest", truncate=8.0)
        assert distance(blurred, exact)[1] <= 1.0  # the kernel ends at 3 sigma


def test_device_equals_cpu(views):
    rng = np.random.default_rng(2)
    batch = np.repeat(views, 8, axis=0)
    params = np.stack([PhotometricAugmentation().draw(rng) for _ in batch])
    one_by_one = np.stack([apply_to_view(view, p) for view, p in zip(batch, params)]).astype(float)
    together = apply_photometric(torch.from_numpy(batch).float(), torch.from_numpy(params)).numpy()
    assert together.min() >= 0
    assert together.max() <= 255.001
    difference = np.abs(one_by_one - together)
    assert difference.mean() < 0.4  # up to six roundings to uint8 against none
    assert np.quantile(difference, 0.999) < 3
    assert difference.max() < 10


def test_device_does_nothing_where_nothing_was_drawn(views):
    images = torch.from_numpy(views).float()
    nothing = torch.from_numpy(np.stack([params_of()] * len(views)))
    torch.testing.assert_close(apply_photometric(images, nothing), images, atol=1e-3, rtol=0)
    view = views[0]
    assert apply_to_view(view, params_of()) is view


def test_device_ignores_autocast_and_has_no_graph_breaks(views):
    images = torch.from_numpy(views).float()
    rng = np.random.default_rng(3)
    params = torch.from_numpy(np.stack([PhotometricAugmentation().draw(rng) for _ in views]))
    expected = apply_photometric(images, params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = apply_photometric(images, params)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, atol=0, rtol=0)
    # a call that reads a value back to the host (.item(), nonzero, a mask as index) would break the graph
    compiled = torch.compile(apply_photometric, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images, params), expected, atol=1e-3, rtol=0)


def test_clamping_between_operations_is_kept():
    # White brightened by 1.4 stays 255; a merged map would give 1.4 * 0.6 * 255 = 214 + 0.4 * mean.
    view = np.zeros((3, 4, 4), np.uint8)
    view[:, :2] = 250
    order = params_of(BRIGHTNESS, CONTRAST, brightness=1.4, contrast=0.6)
    expected = 0.6 * 255 + 0.4 * 127.5
    assert abs(float(apply_to_view(view, order)[0, 0, 0]) - expected) <= 1
    batch = apply_photometric(torch.from_numpy(view)[None].float(), torch.from_numpy(order)[None])
    assert abs(float(batch[0, 0, 0, 0]) - expected) < 1e-3


def test_draw_follows_color_jitters_law():
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    count = 3000
    ours = np.stack([PhotometricAugmentation().draw(rng) for _ in range(count)])
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    drawn = [
        ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        for _ in range(count)
    ]
    jittered = ours[ours[:, ORDER][:, 1] != NONE]
    for index in (BRIGHTNESS, CONTRAST, SATURATION, HUE):
        assert ks_2samp(jittered[:, index], [d[1 + index] for d in drawn]).pvalue > 1e-3
        for place in range(4):  # each operation is equally likely at each place
            assert abs((jittered[:, ORDER][:, place] == index).mean() - 0.25) < 0.035
    assert abs(len(jittered) / count - 0.8) < 0.03
    assert abs((ours[:, ORDER] == GRAYSCALE).any(1).mean() - 0.2) < 0.03
    blurred = ours[ours[:, SIGMA] > 0, SIGMA]
    assert abs(len(blurred) / count - 0.5) < 0.04
    assert ks_2samp(blurred, rng.uniform(0.1, 2.0, count)).pvalue > 1e-3


def test_moco_v1_is_grayscale_then_jitter_always():
    rng = np.random.default_rng(0)
    params = np.stack([PhotometricAugmentation(**MOCO_V1).draw(rng) for _ in range(500)])
    gray = (params[:, ORDER] == GRAYSCALE).any(1)
    assert 0.14 < gray.mean() < 0.26
    assert (params[gray][:, ORDER][:, 0] == GRAYSCALE).all()
    assert ((params[:, ORDER] == HUE).sum(1) == 1).all()
    assert (params[:, SIGMA] == 0).all()


def test_views_are_distributed_as_those_of_the_pil_stack(views):
    rng = np.random.default_rng(4)
    torch.manual_seed(4)
    colour = [RandomApply([ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), RandomGrayscale(p=0.2)]
    ours, published = [], []
    for _ in range(150):
        for view in views:
            ours.append(apply_to_view(view, PhotometricAugmentation().draw(rng)))
            image = as_pil(view)
            for transform in colour:
                image = transform(image)
            if rng.random() < 0.5:
                image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
            published.append(as_array(image))
    ours, published = np.stack(ours), np.stack(published)  # (1800, 3, 96, 96)
    channel_mean = ours.mean((0, 2, 3)) - published.mean((0, 2, 3))
    assert np.abs(channel_mean).max() < 2.0  # PIL truncates: about 1; two standard errors: 1.5
    assert np.abs(ours.std((0, 2, 3)) - published.std((0, 2, 3))).max() < 1.5
    for statistic in (np.mean, np.std):
        values = [statistic(batch, axis=(1, 2, 3)) for batch in (ours, published)]
        assert ks_2samp(*values).pvalue > 1e-3
    histograms = [np.histogram(batch, bins=16, range=(0, 256))[0] / batch.size for batch in (ours, published)]
    assert np.abs(histograms[0] - histograms[1]).sum() < 0.04


@pytest.mark.parametrize(
    "options",
    [
        {"hue": 0.6},
        {"hue": -0.1},
        {"contrast": -1.0},
        {"jitter_prob": 1.5},
        {"grayscale_prob": -0.1},
        {"blur_prob": 2.0},
        {"blur_sigma": (2.0, 0.1)},
    ],
)
def test_refuses_impossible_values(options):
    with pytest.raises(ConfigError, match=rf"photometric: .*({next(iter(options))}|negative)"):
        PhotometricAugmentation(**options)
