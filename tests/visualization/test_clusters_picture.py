"""Clusters on maps whose answer is known."""

import numpy as np
import torch

from densessl.visualization.clusters import COLOURS, TINT, cluster_maps, draw_clusters, shares


def _stripes(widths=(5, 3, 1)) -> torch.Tensor:
    """(8, 4, 9): vertical stripes, each one direction of feature space at several lengths."""
    feature_map = torch.zeros(8, 4, sum(widths))
    left = 0
    for channel, width in enumerate(widths):
        feature_map[channel, :, left : left + width] = torch.linspace(1, 3, 4)[:, None]
        left += width
    return feature_map


def test_directions_are_found_and_the_largest_cluster_comes_first():
    feature_map = _stripes()
    first, second = cluster_maps([feature_map, feature_map.flip(2)], 3)
    np.testing.assert_array_equal(first, np.repeat([[0] * 5 + [1] * 3 + [2]], 4, axis=0))
    np.testing.assert_array_equal(second, first[:, ::-1])
    np.testing.assert_allclose(shares([first, second]), [5 / 9, 3 / 9, 1 / 9])


def test_fewer_locations_than_clusters():
    (found,) = cluster_maps([torch.eye(4).reshape(4, 2, 2)], 8)
    assert sorted(found.ravel().tolist()) == [0, 1, 2, 3]


def test_cells_are_tinted_outlined_and_numbered():
    image = np.full((80, 120, 3), 100, np.uint8)
    drawing = draw_clusters(image, np.array([[0, 1, 1]]))
    assert (image == 100).all()
    for cluster, point in ((0, (10, 10)), (1, (10, 110))):
        expected = TINT * np.array(COLOURS[cluster]) + (1 - TINT) * 100
        assert np.abs(drawing[point] - expected).max() <= 1
    assert (drawing[:, 36:44] == 255).all(axis=2).any()  # the border between the two
    plain = draw_clusters(image, np.array([[0, 0, 0]]))
    assert (plain[5:75, 5:115] > 200).all(axis=2).any()  # a white number away from the outline
    assert (plain[5:75, 5:115] < 0.7 * plain[5, 5]).all(axis=2).any()  # with a black rim
