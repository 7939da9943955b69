"""Geometry of views: round trips, boxes, and predictions checked on pixels."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densessl.data.geometry import (
    ViewGeometry,
    correspondence,
    overlap_box,
    overlap_in_view,
    sampling_grid,
)
from densessl.data.transforms import crop_view, draw_view

IMAGE_SIZE = (50, 60)
LEVELS_PER_PIXEL = 4.0  # the ramp image rises by 4 of 255 for each pixel: one level is a quarter pixel


def ramp_image() -> np.ndarray:
    """(50, 60, 3) uint8 whose red is 4 x and green 4 y in continuous coordinates of pixel centres."""
    height, width = IMAGE_SIZE
    y, x = np.mgrid[:height, :width] + 0.5
    return (np.stack([x, y, 0 * x], axis=-1) * LEVELS_PER_PIXEL).astype(np.uint8)


def random_pairs(count: int, output_size=(40, 32), scale=(0.2, 1.0)):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield tuple(draw_view(IMAGE_SIZE, rng, output_size, scale) for _ in range(2))


def test_worked_example():
    # The crop [10, 30] x [5, 15] becomes 40 x 40: 2 view pixels per image pixel along x, 4 along y.
    plain = ViewGeometry((20, 40), 10, 5, 30, 15, (40, 40))
    mirrored = ViewGeometry((20, 40), 10, 5, 30, 15, (40, 40), flip=True)
    points = np.array([[10.0, 5.0], [30.0, 15.0], [12.5, 6.0], [0.0, 0.0]])
    np.testing.assert_array_equal(plain.to_view(points), [[0, 0], [40, 40], [5, 4], [-20, -20]])
    np.testing.assert_array_equal(mirrored.to_view(points), [[40, 0], [0, 40], [35, 4], [60, -20]])
    box = np.array([12.0, 6.0, 20.0, 10.0])
    np.testing.assert_array_equal(plain.boxes_to_view(box), [4, 4, 20, 20])
    np.testing.assert_array_equal(mirrored.boxes_to_view(box), [20, 4, 36, 20])


@pytest.mark.parametrize("as_torch", [False, True])
def test_view_image_round_trip(as_torch):
    points = np.random.default_rng(1).uniform(-20, 80, (3, 7, 2))
    points = torch.from_numpy(points) if as_torch else points
    for a, b in random_pairs(200):
        there = b.to_view(a.to_image(points))
        back = a.to_view(b.to_image(there))
        assert isinstance(back, type(points))
        np.testing.assert_allclose(back, points, atol=1e-9)


def test_predicts_pixels_of_a_view():
    image = ramp_image()
    means = []
    for view, _ in random_pairs(60):
        pixels = crop_view(image, view).astype(float)
        expected = view.to_image(view.cell_centers(view.output_size)) * LEVELS_PER_PIXEL
        # at the edges of the crop the resampling kernel is cut off, and the ramp bends
        error = (pixels[:2].transpose(1, 2, 0) - expected)[3:-3, 3:-3]
        assert np.abs(error).max() <= 1.01  # rounding in two passes
        means.append(error.mean(axis=(0, 1)))
    assert np.abs(np.mean(means, axis=0)).max() < 0.1  # a shift of 1/40 pixel of the image


def test_predicts_pixels_of_the_other_view():
    image = ramp_image()
    means = []
    for a, b in random_pairs(60):
        view_a, view_b = crop_view(image, a).astype(float), crop_view(image, b).astype(float)
        points, inside = correspondence(a, b, a.output_size)
        x, y = points[..., 0], points[..., 1]
        inner = inside & (x > 4) & (x < b.output_size[1] - 4) & (y > 4) & (y < b.output_size[0] - 4)
        inner[:3] = inner[-3:] = inner[:, :3] = inner[:, -3:] = False
        column, row = np.floor(x[inner]).astype(int), np.floor(y[inner]).astype(int)
        # nearest pixel of b, plus the slope of b's ramp times the distance from its centre
        slope = LEVELS_PER_PIXEL / np.array(b.scale)
        found = view_b[:2, row, column].T + (points[inner] - np.stack([column, row], 1) - 0.5) * slope
        error = found - view_a[:2][:, inner].T
        if len(error) > 20:
            assert np.abs(error).max() <= 2.02
            means.append(error.mean(axis=0))
    assert len(means) > 30
    assert np.abs(np.mean(means, axis=0)).max() < 0.1


def test_sampling_grid_warps_one_view_onto_the_other():
    image = ramp_image()
    means = []
    for src, dst in random_pairs(60):
        source = torch.from_numpy(crop_view(image, src)).float()[None]
        target = crop_view(image, dst).astype(float)
        grid = sampling_grid(src, dst, dst.output_size)
        assert grid.dtype == torch.float32
        warped = F.grid_sample(source, grid[None], align_corners=False)[0].numpy()
        inner = (grid.abs() < 0.75).all(dim=-1).numpy()
        inner[:3] = inner[-3:] = inner[:, :3] = inner[:, -3:] = False
        if inner.sum() > 20:
            error = (warped - target)[:2][:, inner]
            assert np.abs(error).max() <= 2.02
            means.append(error.mean(axis=1))
    assert len(means) > 30
    assert np.abs(np.mean(means, axis=0)).max() < 0.1


def test_sampling_grid_of_equal_views_is_the_identity():
    view = ViewGeometry(IMAGE_SIZE, 3, 4, 40, 44, (32, 32), flip=True)
    features = torch.randn(1, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    warped = F.grid_sample(features, sampling_grid(view, view, (4, 4))[None], align_corners=False)
    torch.testing.assert_close(warped, features, atol=1e-5, rtol=0)


def test_correspondence_of_equal_views_and_mirror():
    view = ViewGeometry((8, 8), 0, 0, 8, 8, (8, 8))
    mirrored = ViewGeometry((8, 8), 0, 0, 8, 8, (8, 8), flip=True)
    points, inside = correspondence(view, mirrored, (2, 4))
    assert inside.all()
    np.testing.assert_array_equal(points[0, :, 0], [7, 5, 3, 1])
    np.testing.assert_array_equal(points[:, 0, 1], [2, 6])


def test_overlap():
    a = ViewGeometry((40, 40), 0, 0, 20, 20, (10, 10))
    b = ViewGeometry((40, 40), 10, 16, 30, 36, (40, 40), flip=True)
    assert overlap_box(a, b) == overlap_box(b, a) == (10, 16, 20, 20)
    assert overlap_in_view(a, b) == (5, 8, 10, 10)
    assert overlap_in_view(b, a) == (20, 0, 40, 8)


@pytest.mark.parametrize("x0", [20, 25])
def test_views_that_touch_or_lie_apart_do_not_overlap(x0):
    a = ViewGeometry((40, 40), 0, 0, 20, 20, (10, 10))
    b = ViewGeometry((40, 40), x0, 0, 40, 20, (10, 10))
    assert overlap_box(a, b) is None
    assert overlap_in_view(a, b) is None
    if x0 == 25:
        assert not correspondence(a, b, (5, 5))[1].any()


def test_inside_agrees_with_the_overlap_box():
    for a, b in random_pairs(100, scale=(0.02, 0.2)):
        points, inside = correspondence(a, b, (16, 16))
        box = overlap_in_view(a, b)
        centers = a.cell_centers((16, 16))
        if box is None:
            assert not inside.any()
        else:
            expected = (centers >= box[:2]).all(-1) & (centers <= box[2:]).all(-1)
            np.testing.assert_array_equal(inside, expected)


def test_refuses_views_of_different_images_and_empty_boxes():
    a = ViewGeometry((40, 40), 0, 0, 20, 20, (10, 10))
    b = ViewGeometry((40, 41), 0, 0, 20, 20, (10, 10))
    for function in (overlap_box, overlap_in_view):
        with pytest.raises(ValueError, match="different images"):
            function(a, b)
    with pytest.raises(ValueError, match="different images"):
        correspondence(a, b, (2, 2))
    with pytest.raises(ValueError, match="no area"):
        ViewGeometry((40, 40), 5, 0, 5, 20, (10, 10))


def test_is_small_when_pickled():
    view = ViewGeometry((480, 640), 12, 30, 500, 400, (224, 224), True)
    assert pickle.loads(pickle.dumps(view)) == view
    views = [ViewGeometry((480, 640), i, 0, 600, 400, (224, 224)) for i in range(100)]
    assert len(pickle.dumps(views)) < 100 * len(views)  # bytes through the worker's queue
