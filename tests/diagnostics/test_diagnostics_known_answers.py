"""Every diagnostic on features whose score is known."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from densessl.data.geometry import ViewGeometry
from densessl.diagnostics.clusters import cluster_miou, match_clusters
from densessl.diagnostics.discovery import box_iou, corloc, discover_box
from densessl.diagnostics.linear_probe import fit_ridge, linear_miou
from densessl.diagnostics.retrieval import retrieval_miou, retrieve_labels
from densessl.diagnostics.segmentation import best_miou, cell_shares, confusion_matrix, mean_iou
from densessl.diagnostics.spectrum import alignment, effective_rank, uniformity
from densessl.diagnostics.stereo import disparity_pairs
from densessl.visualization.correspondences import count_matches, match_accuracy

torch.set_num_threads(1)
CLASSES = 4


def one_hot_cells(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(count, CLASSES) features that are the labels, and the labels as shares."""
    labels = torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(seed))
    shares = F.one_hot(labels, CLASSES).float()
    return shares * 3.0, shares


def shuffled(rows: torch.Tensor) -> torch.Tensor:
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(9))]


def test_cell_shares_against_a_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, (13, 17))
    labels[rng.random(labels.shape) < 0.2] = 255
    rows, columns = 3, 4
    expected = np.zeros((rows * columns, CLASSES))
    sizes = np.zeros(rows * columns)
    for y in range(13):
        for x in range(17):
            cell = (y * rows // 13) * columns + x * columns // 17
            sizes[cell] += 1
            if labels[y, x] != 255:
                expected[cell, labels[y, x]] += 1
    found = cell_shares(labels, (rows, columns), CLASSES)
    np.testing.assert_allclose(found.numpy(), expected / sizes[:, None], rtol=1e-6)


def test_mean_iou_by_hand():
    # class 0: 2 of 3 right, one more taken for it; class 1: 1 of 2 right; class 2 does not occur
    prediction = torch.tensor([0, 0, 1, 1, 0])
    shares = F.one_hot(torch.tensor([0, 0, 0, 1, 1]), 3).float()
    confusion = confusion_matrix(prediction, shares, 3)
    assert confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert mean_iou(confusion) == pytest.approx(100 * (2 / 4 + 1 / 3) / 2)
    with pytest.raises(ValueError, match="no labelled cell"):
        mean_iou(torch.zeros(2, 2))


def test_best_miou_of_mixed_cells():
    shares = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
    assert best_miou(shares) == pytest.approx(100 * 0.75 / 1.25)
    assert best_miou(torch.eye(2)) == pytest.approx(100)


def test_features_that_are_the_labels_give_100():
    train, train_shares = one_hot_cells(200, 0)
    test, test_shares = one_hot_cells(120, 1)
    assert retrieval_miou(test, test_shares, train, train_shares) == pytest.approx(100)
    assert linear_miou(train, train_shares, test, test_shares) == pytest.approx(100)
    assert cluster_miou(test, test_shares) == pytest.approx(100)


def test_shuffled_features_give_chance():
    """IoU of independent uniform guesses: c^2 / (2 c - c^2) with c = 1 / K."""
    train, train_shares = one_hot_cells(4000, 0)
    test, test_shares = one_hot_cells(4000, 1)
    chance = 100 * (1 / CLASSES) / (2 - 1 / CLASSES)
    noise = torch.randn(4000, 8, generator=torch.Generator().manual_seed(2))
    other = torch.randn(4000, 8, generator=torch.Generator().manual_seed(3))
    assert retrieval_miou(noise, test_shares, other, train_shares) == pytest.approx(chance, abs=2)
    assert linear_miou(other, train_shares, noise, test_shares) == pytest.approx(chance, abs=3)
    assert cluster_miou(shuffled(test), test_shares) == pytest.approx(chance, abs=2)


def test_retrieval_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    query, memory = torch.randn(5, 6, generator=generator), torch.randn(20, 6, generator=generator)
    shares = torch.rand(20, 3, generator=generator)
    found = retrieve_labels(query, memory, shares, neighbours=4, temperature=0.1)
    for row in range(5):
        cosines = F.cosine_similarity(query[row][None], memory)
        nearest = cosines.argsort(descending=True)[:4]
        weights = (cosines[nearest] / 0.1).exp()
        expected = (weights[:, None] * shares[nearest]).sum(0) / weights.sum()
        torch.testing.assert_close(found[row], expected, rtol=1e-5, atol=1e-6)


def test_unlabelled_cells_are_not_looked_up():
    memory = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    shares = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    query, truth = torch.tensor([[1.0, 0.9]]), torch.tensor([[1.0, 0.0]])
    assert retrieval_miou(query, truth, memory, shares, neighbours=1) == pytest.approx(100)


@pytest.mark.parametrize(("count", "channels"), [(40, 6), (6, 40)])
def test_ridge_minimises_its_sum(count, channels):
    """Both forms of the solution; the gradient of the written sum is zero at it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, channels, generator=generator, dtype=torch.float64) + 2
    y = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    weight, bias = (value.requires_grad_() for value in fit_ridge(x, y, ridge=0.1))
    variance = x.var(0, unbiased=False).mean()
    error = (y - (x - x.mean(0)) @ weight.t() - (bias + weight.detach() @ x.mean(0))).square().sum()
    (error + count * 0.1 * variance * weight.square().sum()).backward()
    assert weight.grad.abs().max() < 1e-9
    assert bias.grad.abs().max() < 1e-9


def test_ridge_of_constant_features_predicts_the_mean():
    shares = F.one_hot(torch.tensor([0, 1, 1]), 2).float()
    weight, bias = fit_ridge(torch.ones(3, 4), shares)
    assert weight.abs().max() == 0
    torch.testing.assert_close(bias, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))


def test_clusters_are_matched_globally():
    # each cluster's largest class is 0, but one matching serves all
    confusion = torch.tensor([[9.0, 8.0], [1.0, 7.0]])
    assert match_clusters(confusion).tolist() == [[9, 8], [1, 7]]
    assert match_clusters(confusion.flip(1)).tolist() == [[9, 8], [1, 7]]
    fewer = match_clusters(torch.tensor([[5.0], [1.0]]))
    assert fewer.tolist() == [[5, 0], [1, 0]]


def test_effective_rank():
    assert effective_rank(torch.randn(1, 8).expand(50, 8)) == pytest.approx(1, abs=1e-3)
    orthonormal = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
    assert effective_rank(orthonormal) == pytest.approx(12, abs=1e-4)
    assert effective_rank(orthonormal[:5].repeat(4, 1)) == pytest.approx(5, abs=1e-3)
    features = torch.randn(30, 7, generator=torch.Generator().manual_seed(1))
    singular = torch.linalg.svdvals(F.normalize(features.double(), dim=1))
    share = singular / singular.sum()
    expected = math.exp(-(share * share.log()).sum())
    assert effective_rank(features) == pytest.approx(expected, rel=1e-9)
    assert effective_rank(features[:5]) <= 5


def test_uniformity_and_alignment():
    assert uniformity(torch.ones(6, 3)) == pytest.approx(0)
    assert uniformity(torch.eye(5)) == pytest.approx(-4)  # |x - y|^2 = 2
    assert uniformity(torch.tensor([[1.0, 0.0], [-3.0, 0.0]])) == pytest.approx(-8)
    first = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    assert alignment(first, 2 * first) == pytest.approx(0)
    assert alignment(first, -first) == pytest.approx(4)
    unit = F.normalize(first.double(), dim=1)
    pairs = [((unit[i] - unit[j]) ** 2).sum() for i in range(9) for j in range(i)]
    expected = torch.stack(pairs).mul(-2).exp().mean().log()
    assert uniformity(first) == pytest.approx(float(expected), rel=1e-9)


def position_features(geometry: ViewGeometry, cells: int, scene: torch.Tensor) -> torch.Tensor:
    """(C, cells, cells): each cell shows the vector of the scene that lies under its centre."""
    points = geometry.to_image(geometry.cell_centers((cells, cells)))
    x, y = np.floor(points / 8).astype(int).transpose(2, 0, 1)
    return scene[:, y, x]


def test_perfect_shifts_give_all_correspondences():
    scene = torch.randn(32, 16, 16, generator=torch.Generator().manual_seed(0))
    views = [ViewGeometry((128, 128), x, y, x + 64, y + 64, (64, 64)) for x, y in ((0, 0), (24, 16))]
    maps = [position_features(view, 8, scene) for view in views]
    total = match_accuracy(*maps, *views)
    assert total.cells == 5 * 6
    assert total.nearest_correct == total.cells
    wrong = match_accuracy(maps[0], maps[1].flip(2), *views)
    assert wrong.nearest_correct < total.cells / 2


def test_perfect_disparity_gives_all_correspondences():
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(32, 6, 10, generator=generator)
    right = torch.randn(32, 6, 10, generator=generator)
    shift = torch.tensor([2, 3, 0, 1, 4, 2])  # cells, by row; 0 and 1 do not move enough to count
    for row in range(6):
        right[:, row, : 10 - shift[row]] = left[:, row, shift[row] :]
    disparity = np.repeat(np.repeat(shift.numpy()[:, None] * 8.0, 8, 0), 80, 1)
    disparity[:8, :40] = np.nan
    correct, counted = disparity_pairs((6, 10), disparity)
    # row 0: x 5..9 known, all inside; 1: 3..9; 4: 4..9; 5: 2..9
    assert counted.reshape(6, 10).sum(1).tolist() == [5, 7, 0, 0, 6, 8]
    total = count_matches(left, right, correct, counted)
    assert total.nearest_correct == total.cells == 26
    assert count_matches(left, left, correct, counted).nearest_correct == 0  # "nothing moved" earns nothing
    assert 0 < total.chance < total.cells / 4


@pytest.mark.parametrize("box", [(2, 1, 5, 4), (0, 0, 3, 2), (6, 5, 8, 8)])
def test_planted_block_gives_its_box(box):
    x0, y0, x1, y1 = box
    generator = torch.Generator().manual_seed(0)
    feature_map = torch.rand(1, 1, 1).expand(16, 8, 8) + 0.01 * torch.randn(16, 8, 8, generator=generator)
    feature_map[:8, y0:y1, x0:x1] += 2.0
    feature_map[8:] += 1.0
    assert discover_box(feature_map) == box
    objects = np.array([[x0, y0, x1, y1]]) / 8
    nowhere = np.array([[7.5, 0.0, 8.0, 0.5]]) / 8
    maps = feature_map[None].expand(3, -1, -1, -1)
    assert corloc(maps, [objects, nowhere, np.zeros((0, 4))]) == 50.0
    with pytest.raises(ValueError, match="no image has an object"):
        corloc(maps[:1], [np.zeros((0, 4))])


def test_one_of_two_blocks_gives_one_connected_box():
    feature_map = torch.ones(4, 8, 8)
    feature_map[:2] = 0
    for x0, y0 in ((0, 0), (6, 6)):
        feature_map[:, y0 : y0 + 2, x0 : x0 + 2] = torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None, None]
    assert discover_box(feature_map) in [(0, 0, 2, 2), (6, 6, 8, 8)]


def test_box_iou():
    found = box_iou((0, 0, 2, 2), np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]], float))
    np.testing.assert_allclose(found, [1, 1 / 7, 0])
