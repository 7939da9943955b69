"""Matching of clusters to classes: recorded matches, scikit-learn's measures, small cases by hand."""

import numpy as np
import pytest
import torch
from cluster_golden import RELEASED, golden, tensors
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from densessl.clustering.assignment import (
    adjusted_rand_index,
    confusion_matrix,
    hungarian_match,
    majority_match,
    merge_clusters,
    normalized_mutual_information,
)
from densessl.errors import ConfigError, DataError


@pytest.mark.parametrize("name", ["eval_hungarian_s0", "eval_hungarian_s1"])
def test_recorded_counts_and_match(name):
    arrays = golden(name)
    size = int(arrays["hp/K"])
    label, cluster = tensors(arrays, "in/label", "in/pred")
    # the authors ignore -1
    counts = confusion_matrix(label, cluster, size, size, ignore_label=-1).numpy()
    assert np.array_equal(counts, arrays["out/hist"])
    match = hungarian_match(counts)
    assert [(int(match[cluster]), cluster) for _, cluster in arrays["out/match"]] == [
        tuple(pair) for pair in arrays["out/match"].tolist()
    ]
    assert np.array_equal(counts[match], arrays["out/reordered_hist_as_released"])


@pytest.mark.parametrize("date", RELEASED)
def test_match_of_the_released_matrices(date):
    arrays = golden("picie_released_hist")
    match = hungarian_match(arrays[f"{date}/hist"])
    assert np.array_equal(np.argsort(match), arrays[f"{date}/match"])


def test_counts_by_hand():
    truth = torch.tensor([[0, 1, 1], [2, 255, 255]], dtype=torch.uint8)
    clusters = torch.tensor([[3, 3, 0], [1, 7, -1]])  # what lies under an ignored pixel is not looked at
    assert confusion_matrix(truth, clusters, 3, 4).tolist() == [[0, 0, 0, 1], [1, 0, 0, 1], [0, 1, 0, 0]]
    nothing = confusion_matrix(torch.full((2, 2), 255), torch.zeros(2, 2), 3, 4)
    assert nothing.shape == (3, 4)
    assert nothing.sum() == 0


def test_labels_out_of_range():
    zero = torch.zeros(1, dtype=torch.int64)
    for label in (3, -1):
        with pytest.raises(DataError, match=f"labels from {label} to {label}, and there are 3 classes"):
            confusion_matrix(zero + label, zero, 3, 4)
    for cluster in (4, -1):
        with pytest.raises(ConfigError, match=f"clusters from {cluster}"):
            confusion_matrix(zero, zero + cluster, 3, 4)
    with pytest.raises(ConfigError, match="differ in shape"):
        confusion_matrix(zero, torch.zeros(2), 3, 4)


def test_more_clusters_than_classes_and_the_reverse():
    wide = np.array([[5, 0, 4, 0], [0, 1, 3, 0]])
    assert hungarian_match(wide).tolist() == [0, -1, 1, -1]
    assert majority_match(wide).tolist() == [0, 1, 0, -1]
    assert merge_clusters(wide, hungarian_match(wide)).tolist() == [[5, 4, 0], [0, 3, 1]]
    assert merge_clusters(wide, majority_match(wide)).tolist() == [[9, 0, 0], [3, 1, 0]]
    assert hungarian_match(wide.T).tolist() == [0, 2]
    assert merge_clusters(wide.T, np.array([0, 2])).tolist()[1:3] == [[0, 0, 1, 0, 0], [4, 0, 3, 0, 0]]


@pytest.mark.parametrize("seed", range(4))
def test_agreement_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 300)
    clusters = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 6, 300))
    counts = confusion_matrix(torch.from_numpy(labels), torch.from_numpy(clusters), 4, 6).numpy()
    assert normalized_mutual_information(counts) == pytest.approx(
        normalized_mutual_info_score(labels, clusters), abs=1e-12
    )
    assert adjusted_rand_index(counts) == pytest.approx(adjusted_rand_score(labels, clusters), abs=1e-12)


def test_agreement_at_its_ends():
    # COCO's number of pixels: 1e19 pairs
    diagonal = np.diag([3_000_000_000, 2_000_000_000])
    for measure in (normalized_mutual_information, adjusted_rand_index):
        assert measure(diagonal) == pytest.approx(1.0, abs=1e-12)
        assert measure(np.array([[10, 10], [10, 10]]) * 100_000_000) == pytest.approx(0.0, abs=1e-6)
        assert measure(np.array([[7, 0], [0, 0]])) == 1.0
        assert measure(np.zeros((2, 2), np.int64)) is None
