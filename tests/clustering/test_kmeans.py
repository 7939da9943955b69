"""Mini-batch k-means against the recorded states of PiCIE's, a slow version, and at its edges."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cluster_golden import golden, tensors

from densessl.clustering.kmeans import InitialPoints, MiniBatchKMeans, assign_clusters, cluster_scores
from densessl.errors import DataError, NonFiniteError


def recorded_start(name: str):
    """The clustering after the initial batches, and the batches that follow."""
    arrays = golden(name)
    features, centroids = tensors(arrays, "in/feats", "in/init_centroids")
    features = F.normalize(features, dim=2)  # (batches, B, C, h, w)
    first = int(arrays["hp/num_init_batches"])
    scores = cluster_scores(features[:first].flatten(0, 1), centroids)
    counts = torch.bincount(scores.argmax(1).flatten(), minlength=len(centroids))
    loss = float(-scores.amax(1).mean())
    kmeans = MiniBatchKMeans(centroids, counts, loss, batches_per_update=int(arrays["hp/num_batches"]))
    return arrays, kmeans, features[first:]


@pytest.mark.parametrize("name", ["kmeans_s0", "kmeans_s1"])
def test_recorded_states(name):
    arrays, kmeans, batches = recorded_start(name)
    before = [kmeans.centroids]
    for batch in batches:
        kmeans.add(batch)
        if kmeans.num_updates == len(before):
            before.append(kmeans.centroids)
    assert kmeans.num_updates == int(arrays["out/n_updates"]) == len(before) - 1
    assert torch.stack(before[:-1]).numpy() == pytest.approx(
        arrays["out/centroids_before_each_update"], abs=1e-6
    )
    assert kmeans.centroids.numpy() == pytest.approx(arrays["out/centroids"], abs=1e-6)
    assert kmeans.losses.numpy() == pytest.approx(arrays["out/losses"], abs=1e-6)
    assert kmeans.finish() == pytest.approx(float(arrays["out/loss_avg"]), abs=1e-6)


def test_recorded_assignment():
    arrays = golden("assign_s0")
    features, centroids = tensors(arrays, "in/feats", "in/centroids")
    features = F.normalize(features, dim=1)
    assert cluster_scores(features, centroids).numpy() == pytest.approx(arrays["out/scores"], abs=1e-6)
    labels = assign_clusters(features, centroids)
    assert np.array_equal(labels.numpy(), arrays["out/labels"])
    assert np.array_equal(torch.bincount(labels.flatten(), minlength=9).numpy(), arrays["out/counts"])
    dot = torch.einsum("bchw,kc->bkhw", features, centroids).argmax(1)
    assert np.array_equal(dot.numpy(), arrays["out/labels_by_dot_only"])
    assert (dot != labels).float().mean() == pytest.approx(float(arrays["out/frac_differs"]), abs=1e-6)


def blobs(images: int = 6, clusters: int = 3, seed: int = 0):
    """Unit features (images, 4, 5, 5) near `clusters` directions, and which one each cell is near."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, clusters, (images, 5, 5), generator=generator)
    noise = 0.02 * torch.randn(images, 4, 5, 5, generator=generator)
    return F.normalize(F.one_hot(kind, 4).permute(0, 3, 1, 2) + noise, dim=1), kind


@pytest.mark.parametrize("points_per_image", [None, 25, 12])
def test_initial_clustering_finds_the_means(points_per_image):
    features, kind = blobs()
    initial = InitialPoints(points_per_image)
    initial.add(features[:4], [0, 1, 2, 3])
    initial.add(features[4:], [4, 5])
    centroids, counts, loss = initial.cluster(3)
    order = centroids.argmax(1)  # the direction that each centroid is near
    assert sorted(order.tolist()) == [0, 1, 2]
    assert counts.sum() == pytest.approx(6 * 25)
    cells = features.permute(0, 2, 3, 1)
    for centroid, count, direction in zip(centroids, counts, order):
        mean = cells[kind == int(direction)].mean(0).numpy()
        share = int((kind == int(direction)).sum())
        exact = points_per_image != 12
        assert centroid == pytest.approx(mean, abs=1e-6 if exact else 0.02)
        assert count == (share if exact else pytest.approx(share, rel=0.4))
    distance = -cluster_scores(features, torch.from_numpy(centroids)).amax(1).mean()
    assert loss == pytest.approx(float(distance), abs=1e-6 if points_per_image != 12 else 5e-4)


def test_draw_of_points_knows_the_image_only():
    features, _ = blobs()
    together, apart = InitialPoints(7, seed=3), InitialPoints(7, seed=3)
    together.add(features, [4, 2, 9, 0, 1, 7])
    for image, index in reversed(list(zip(features, [4, 2, 9, 0, 1, 7]))):
        apart.add(image[None], [index])
    for ours, theirs in zip(together.cluster(3), apart.cluster(3)):
        assert np.array_equal(ours, theirs)
    other = InitialPoints(7, seed=4)
    other.add(features, [4, 2, 9, 0, 1, 7])
    assert not np.array_equal(other.cluster(3)[0], together.cluster(3)[0])


def test_fewer_points_than_clusters():
    initial = InitialPoints()
    with pytest.raises(DataError, match="0 points for 2 clusters"):
        initial.cluster(2)
    initial.add(torch.ones(1, 4, 1, 3), [0])
    with pytest.raises(DataError, match="3 points for 4 clusters"):
        initial.cluster(4)


def test_equal_points_leave_clusters_empty_but_finite():
    initial = InitialPoints()
    initial.add(torch.full((2, 4, 3, 3), 0.5), [0, 1])
    centroids, counts, _ = initial.cluster(3)
    assert np.isfinite(centroids).all()
    assert counts.sum() == 18
    kmeans = MiniBatchKMeans(centroids, counts, 0.0)
    kmeans.add(torch.full((1, 4, 3, 3), 0.5))
    assert kmeans.centroids.isfinite().all()
    assert kmeans.finish() == pytest.approx(0.0, abs=1e-5)


def test_cluster_without_members_stays():
    start = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    kmeans = MiniBatchKMeans(start, [0.0, 2.0, 0.0], 0.0)
    cells = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    kmeans.add(cells.T.reshape(1, 2, 1, 2))
    assert torch.equal(kmeans.centroids[[0, 2]], start[[0, 2]])
    # two members before, two now: half way to their mean
    assert kmeans.centroids[1].tolist() == pytest.approx([0.15, 0.95], abs=1e-6)
    assert kmeans.counts.tolist() == [0, 4, 0]
    assert kmeans.losses.tolist() == pytest.approx([0.0, (0.36 + 0.04) / 2], abs=1e-6)


def test_features_that_are_not_finite():
    initial = InitialPoints()
    initial.add(torch.full((1, 2, 2, 2), torch.nan), [0])
    with pytest.raises(NonFiniteError, match="first batches"):
        initial.cluster(2)
    kmeans = MiniBatchKMeans(torch.eye(2), [1.0, 1.0], 0.0)
    features = torch.full((1, 2, 2, 2), 0.5**0.5)
    kmeans.add(features)
    features[0, 1, 0, 0] = torch.inf
    kmeans.add(features)
    assert kmeans.centroids.isfinite().all()
    with pytest.raises(NonFiniteError, match="1 of 3 groups"):
        kmeans.finish()


def test_state_follows_any_number_of_batches():
    """The centroids are weighted means: of Lloyd's, and of all members in their groups."""
    features, _ = blobs(8)
    kmeans = MiniBatchKMeans(torch.eye(4)[:3], torch.full((3,), 10.0), 0.0)
    sums = 10.0 * torch.eye(4)[:3]
    for image in features:
        kmeans.add(image[None])
        nearest = image.flatten(1).T.argmax(1)
        for cluster in range(3):
            sums[cluster] += image.flatten(1).T[nearest == cluster].sum(0)
    expected = sums / kmeans.counts[:, None].float()
    torch.testing.assert_close(kmeans.centroids, expected, atol=1e-5, rtol=0)
