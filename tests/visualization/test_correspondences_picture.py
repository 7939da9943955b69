"""Matches on features whose partners are known, scored against geometry."""

import numpy as np
import pytest
import torch

from densessl.data.geometry import ViewGeometry
from densessl.visualization.correspondences import (
    CORRECT,
    WRONG,
    MatchAccuracy,
    Matches,
    cell_centres,
    cosine_matrix,
    draw_matches,
    match_accuracy,
    mutual_matches,
)
from densessl.visualization.views import view_pair


def _distinct(height: int, width: int) -> torch.Tensor:
    """(h*w, h, w): every location is its own direction."""
    return torch.eye(height * width).reshape(height * width, height, width)


def _position_features(geometry: ViewGeometry, cells: int) -> torch.Tensor:
    """(C, cells, cells) features that encode where in the image each cell lies, and nothing else."""
    points = torch.from_numpy(geometry.to_image(geometry.cell_centers((cells, cells)))) / 64.0
    frequencies = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    angles = (points[..., None] * frequencies).flatten(2)  # (cells, cells, 6)
    return torch.cat([angles.sin(), angles.cos()], dim=2).permute(2, 0, 1).float()


def test_identity():
    features = _distinct(3, 4)
    matches = mutual_matches(features, features)
    assert sorted(matches.query.tolist()) == list(range(12))
    assert torch.equal(matches.query, matches.key)
    torch.testing.assert_close(matches.similarity, torch.ones(12))


def test_shift_by_one_column():
    features = _distinct(4, 6)
    matches = mutual_matches(
        features[:, :, :-1], features[:, :, 1:]
    )  # column c of the first is c-1 of the second
    pairs = {(int(q), int(k)) for q, k in zip(matches.query, matches.key)}
    assert pairs == {(5 * row + column, 5 * row + column - 1) for row in range(4) for column in range(1, 5)}


def test_only_mutual_pairs_above_the_threshold_best_first():
    query = torch.tensor([[1.0, 0.9, 0.0], [0.0, 0.1, 1.0]]).reshape(2, 1, 3)
    key = torch.tensor([[1.0, 0.5], [0.0, 1.0]]).reshape(2, 1, 2)
    # Query cells 0 and 1 both choose key 0, which chooses cell 0; cell 2 and key 1 choose each other (0.894).
    assert mutual_matches(query, key).key.tolist() == [0]
    loose = mutual_matches(query, key, threshold=-1)
    assert loose.query.tolist() == [0, 2]
    assert loose.similarity[0] > loose.similarity[1]


def test_cosines_equal_a_loop():
    torch.manual_seed(0)
    query, key = torch.randn(5, 2, 3), torch.randn(5, 3, 2)
    result = cosine_matrix(query, key)
    for i in range(6):
        for j in range(6):
            expected = torch.cosine_similarity(query[:, i // 3, i % 3], key[:, j // 2, j % 2], dim=0)
            torch.testing.assert_close(result[i, j], expected)


def test_cell_centres():
    np.testing.assert_allclose(cell_centres((2, 2), (64, 32)), [[8, 16], [24, 16], [8, 48], [24, 48]])


@pytest.mark.parametrize("flip", [False, True])
def test_features_that_know_their_position_are_always_right(flip):
    inner = ViewGeometry((200, 300), 60, 30, 180, 150, (128, 128))
    outer = ViewGeometry((200, 300), 50, 20, 190, 160, (128, 128), flip)
    features = [_position_features(g, 8) for g in (inner, outer)]
    accuracy = match_accuracy(*features, inner, outer, threshold=0.5)
    assert accuracy.nearest_correct == accuracy.cells == 64
    assert accuracy.mutual_correct == accuracy.mutual > 30
    assert accuracy.chance / accuracy.cells < 0.1


def test_locations_without_a_partner_are_not_scored_and_their_matches_are_wrong():
    first = ViewGeometry((128, 256), 0, 0, 128, 128, (128, 128))
    second = ViewGeometry((128, 256), 64, 0, 192, 128, (128, 128))  # shows the right half of the first
    columns = torch.arange(8).repeat(8, 1)[None] + 4 * torch.arange(2).view(2, 1, 1)  # in image cells
    features = torch.nn.functional.one_hot(columns, 12).permute(0, 3, 1, 2).float()
    accuracy = match_accuracy(features[0], features[1], first, second)
    assert accuracy.cells == 32
    same_place = torch.eye(64).reshape(64, 8, 8)  # matches every location with the one at its own place
    assert match_accuracy(same_place, same_place, first, second).mutual == 64
    assert match_accuracy(same_place, same_place, first, second).mutual_correct == 0


def test_mirrored_truth_makes_unmirrored_matches_wrong():
    geometry = ViewGeometry((128, 128), 0, 0, 128, 128, (128, 128))
    mirrored = ViewGeometry((128, 128), 0, 0, 128, 128, (128, 128), flip=True)
    features = _distinct(8, 8)
    assert match_accuracy(features, features, geometry, geometry).nearest_correct == 64
    # Against the mirror, only the two middle columns lie within one cell of their truth.
    assert match_accuracy(features, features, geometry, mirrored).nearest_correct == 16


def test_random_features_score_like_chance():
    geometry = ViewGeometry((128, 128), 0, 0, 128, 128, (128, 128))
    generator = torch.Generator().manual_seed(0)
    total = MatchAccuracy()
    for _ in range(60):
        maps = torch.randn(2, 16, 8, 8, generator=generator)
        total = total + match_accuracy(maps[0], maps[1], geometry, geometry)
    assert abs(total.nearest_correct - total.chance) < 0.2 * total.chance


def test_views_know_where_they_come_from():
    rows, columns = np.mgrid[0:240, 0:320]
    image = np.stack([columns * 255 / 319, rows * 255 / 239, np.zeros_like(rows)], axis=2).astype(np.uint8)
    pair = view_pair(image, size=96, seed=2)  # even: not mirrored; the first view keeps its colours
    points = pair.geometry[0].to_image(pair.geometry[0].cell_centers((96, 96)))
    expected = points * [255 / 319, 255 / 239]
    assert np.abs(pair.images[0][..., :2] - expected).max() < 3
    again = view_pair(image, size=96, seed=2)
    np.testing.assert_array_equal(pair.images[1], again.images[1])
    assert view_pair(image, size=96, seed=3).geometry[1].flip


def test_drawing_marks_correct_and_wrong():
    black = np.zeros((64, 64, 3), np.uint8)
    matches = Matches(torch.tensor([0, 15]), torch.tensor([0, 3]), torch.tensor([1.0, 0.95]))
    canvas = draw_matches(black, black, matches, (4, 4), torch.tensor([True, False]))
    assert canvas.shape[0] == 64
    assert canvas.shape[1] > 128
    assert tuple(canvas[8, 8]) == CORRECT
    assert tuple(canvas[56, 56]) == WRONG
