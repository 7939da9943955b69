"""Feature colours on maps whose answer is known."""

import numpy as np
import torch

from densessl.visualization.features import colour_maps, fit_colour_basis


def _three_regions() -> torch.Tensor:
    """(8, 6, 9): three vertical stripes, each one direction of feature space."""
    feature_map = torch.zeros(8, 6, 9)
    for stripe, channel in enumerate((1, 4, 6)):
        feature_map[channel, :, 3 * stripe : 3 * stripe + 3] = 1.0
    return feature_map


def test_constant_regions_get_distinct_constant_colours():
    (drawing,) = colour_maps([_three_regions()], [(6, 9)])
    colours = [drawing[:, 3 * s : 3 * s + 3].reshape(-1, 3) for s in range(3)]
    assert all((c == c[0]).all() for c in colours)
    centres = np.array([c[0] for c in colours], dtype=int)
    for a in range(3):
        for b in range(a):
            assert np.abs(centres[a] - centres[b]).max() > 100


def test_the_basis_is_shared_between_images():
    regions = _three_regions()
    mirrored = regions.flip(2)
    first, second = colour_maps([regions, mirrored], [(6, 9), (6, 9)])
    np.testing.assert_array_equal(first, second[:, ::-1])


def test_length_of_a_feature_does_not_matter():
    regions = _three_regions()
    regions[:, 3:] *= 17.0
    np.testing.assert_array_equal(
        colour_maps([regions], [(6, 9)])[0], colour_maps([_three_regions()], [(6, 9)])[0]
    )


def test_directions_are_the_principal_components():
    torch.manual_seed(0)
    maps = [torch.randn(10, 5, 4), torch.randn(10, 3, 7)]
    basis = fit_colour_basis(maps)
    rows = torch.cat([torch.nn.functional.normalize(m.flatten(1).t(), dim=1) for m in maps])
    values, vectors = torch.linalg.eigh(torch.cov(rows.t()))
    for index in range(3):
        cosine = (basis.directions[:, index] @ vectors[:, -1 - index]).abs()
        torch.testing.assert_close(cosine, torch.tensor(1.0), atol=1e-4, rtol=0)


def test_constant_features_give_one_colour_and_no_nan():
    (drawing,) = colour_maps([torch.ones(4, 3, 3)], [(12, 12)])
    assert drawing.shape == (12, 12, 3)
    assert (drawing == drawing[0, 0]).all()
