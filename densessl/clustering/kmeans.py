"""Mini-batch k-means of dense features that stays on the device and adds up over processes.

"PiCIE" (https://arxiv.org/abs/2103.17070), section 3.1; authors' code janghyuncho/PiCIE, commons.py:52-183
and utils.py:180-240. Letters: B images of a process, C channels, h x w cells, K clusters. Features are
(B, C, h, w) with unit length over channels.

The first batches give points for Lloyd's algorithm (faiss); each later group of batches moves a centroid
towards the mean of its members by eta = members / members so far. Differences from the authors' code, none of
which changes a value in one process when `points_per_image` is None:

- Features stay where they were computed; only sums, counts and distances leave, added over all processes
  before a centroid moves, so that W processes with B / W images each give the centroids of one.
- Lloyd's algorithm may take some pixels of each image: all of them are 16.8 GB for COCO. Then the counts
  that it starts with are scaled up to all pixels.
- If there are fewer batches than initial ones, the initial clustering takes them all, not the last one.
- Features that are not finite end the clustering with an error, not with centroids that are not.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from densessl.errors import DataError, NonFiniteError

EPSILON = 1e-6  # added to a cluster's count


def cluster_scores(features: Tensor, centroids: Tensor) -> Tensor:
    """Minus the squared distance of unit features to each centroid: -(1 - 2 x . c + |c|^2).

    Args:
        features: (B, C, h, w), unit length over channels.
        centroids: (K, C), of any length.

    Returns:
        (B, K, h, w) float32.
    """
    centroids = centroids.float()
    scores = torch.matmul(2.0 * centroids, features.float().flatten(2))  # (B, K, h * w)
    scores -= (1.0 + centroids.square().sum(1))[:, None]
    return scores.unflatten(2, features.shape[2:])


def assign_clusters(features: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid of each cell: (B, h, w) int64; see `cluster_scores`."""
    return cluster_scores(features, centroids).argmax(1)


class InitialPoints:
    """Points of the first batches, and Lloyd's algorithm on those of all processes.

    Args:
        points_per_image: cells drawn from each image, without replacement; None: all.
        seed: of the draw, with the image's index, so that neither order nor process matters.
    """

    def __init__(self, points_per_image: int | None = 51, seed: int = 0) -> None:
        self.points_per_image, self.seed = points_per_image, seed
        self._points: dict[int, np.ndarray] = {}  # image index -> (P, C) float32
        self._cells = 0

    def add(self, features: Tensor, indices: Sequence[int]) -> None:
        """
        Args:
            features: (B, C, h, w).
            indices: of the B images in the data set.
        """
        features = features.flatten(2)  # (B, C, h * w)
        cells = features.shape[2]
        self._cells += len(features) * cells
        if self.points_per_image is not None and self.points_per_image < cells and len(features):
            chosen = torch.stack([self._draw(index, cells) for index in indices]).to(features.device)
            features = features.gather(2, chosen[:, None].expand(-1, features.shape[1], -1))
        rows = features.transpose(1, 2).float().cpu().numpy()
        self._points.update(zip(indices, rows, strict=True))

    def _draw(self, index: int, cells: int) -> Tensor:
        """Which cells of an image are taken."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        return torch.randperm(cells, generator=generator)[: self.points_per_image]

    def cluster(self, num_clusters: int, iterations: int = 20) -> tuple[np.ndarray, np.ndarray, float]:
        """Clusters the points of all processes on the main one (with a GPU if faiss has one); all call.

        faiss splits the largest clusters where one is empty.

        Args:
            num_clusters: K.
            iterations: of Lloyd's algorithm.

        Returns:
            centroids (K, C) float32; counts (K,) float64, cells of all images per cluster; mean squared
            distance. Equal on all processes.

        Raises:
            DataError: fewer points than clusters.
            NonFiniteError: points that are not finite.
        """
        counts = comm.all_gather(
            (
                sum(map(len, self._points.values())),
                self._cells,
                all(np.isfinite(points).all() for points in self._points.values()),
            )
        )
        points, cells = sum(part[0] for part in counts), sum(part[1] for part in counts)
        if points < num_clusters:
            raise DataError(
                f"k-means: {points} points for {num_clusters} clusters; give more images, or fewer clusters "
                "(model.num_clusters)."
            )
        if not all(part[2] for part in counts):
            raise NonFiniteError("k-means: features of the first batches are not finite; the model diverged.")
        parts = comm.gather(self._points)
        answer = None
        if comm.is_main_process():
            merged = {index: rows for part in parts for index, rows in part.items()}
            data = np.concatenate([merged[index] for index in sorted(merged)])
            centroids, members, loss = _lloyd(data, num_clusters, iterations, self.seed)
            answer = centroids, members * (cells / points), loss
        return comm.all_gather(answer)[0]


def _lloyd(
    points: np.ndarray, num_clusters: int, iterations: int, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """faiss' k-means of (N, C): centroids, float64 members, mean squared distance."""
    import faiss  # takes half a second

    kmeans = faiss.Kmeans(
        points.shape[1],
        num_clusters,
        niter=iterations,
        seed=seed,
        gpu=faiss.get_num_gpus() > 0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),  # faiss would take 256 per cluster
    )
    kmeans.train(points)
    distances, nearest = kmeans.index.search(points, 1)
    members = np.bincount(nearest[:, 0], minlength=num_clusters).astype(np.float64)
    return kmeans.centroids.copy(), members, float(distances.mean(dtype=np.float64))


class MiniBatchKMeans:
    """Centroids that follow the groups of batches after the initial clustering.

    Every process calls `add` equally often, with its part of the batch, which may be empty.

    Args:
        centroids: (K, C), from the initial clustering; equal on all processes.
        counts: (K,), cells in each cluster so far.
        loss: mean squared distance of the initial clustering.
        device: where features will be.
        batches_per_update: batches that make a group.
    """

    def __init__(
        self,
        centroids: np.ndarray | Tensor,
        counts: np.ndarray | Tensor,
        loss: float,
        device: torch.device | str = "cpu",
        batches_per_update: int = 1,
    ) -> None:
        self.centroids = torch.as_tensor(centroids, dtype=torch.float32).to(device).clone()
        self.counts = torch.as_tensor(counts, dtype=torch.float64).to(device).clone()
        self.batches_per_update = batches_per_update
        self._losses = [torch.tensor(loss, dtype=torch.float64, device=device)]
        self._clear()

    def _clear(self) -> None:
        clusters, channels = self.centroids.shape
        # sums (K, C), members (K,), squared distance, cells that are not finite: one all-reduce
        self._statistics = self.counts.new_zeros(clusters, channels + 3)
        self._batches = 0

    @torch.no_grad()
    def add(self, features: Tensor) -> None:
        """Adds (B, C, h, w) features to the group; moves the centroids when the group is full."""
        if len(features):
            self._statistics += self._measure(features.float())
        self._batches += 1
        if self._batches == self.batches_per_update:
            self._update()

    def _measure(self, features: Tensor) -> Tensor:
        best, nearest = cluster_scores(features, self.centroids).flatten(2).max(1)  # (B, n)
        # a product with the one-hot assignment: the same sum each time, unlike index_add on a GPU
        members = features.new_zeros(len(features), len(self.centroids), best.shape[1])
        members.scatter_(1, nearest[:, None], 1.0)  # (B, K, n)
        sums = torch.matmul(members, features.flatten(2).transpose(1, 2)).double().sum(0)  # (K, C)
        scalars = self.counts.new_zeros(len(sums), 2)
        scalars[0, 0] = -best.double().sum()
        scalars[0, 1] = (~best.isfinite()).sum()  # one channel that is not finite makes all scores so
        return torch.cat([sums, members.sum(2).double().sum(0)[:, None], scalars], dim=1)

    def _update(self) -> None:
        statistics = self._statistics
        if comm.get_world_size() > 1:
            dist.all_reduce(statistics)
        sums, members = statistics[:, :-3], statistics[:, -3]
        # a group with cells that are not finite moves nothing; its loss is NaN, which `finish` reads
        clean = statistics[0, -1] == 0
        counts = self.counts + members
        eta = (members / (counts + EPSILON))[:, None]
        means = sums / members.clamp_min(1.0)[:, None]
        # a cluster without members has eta 0: it stays
        moved = ((1.0 - eta) * self.centroids.double() + eta * means).float()
        self.centroids = torch.where(clean, moved, self.centroids)
        self.counts = torch.where(clean, counts, self.counts)
        self._losses.append(torch.where(clean, statistics[0, -2] / members.sum().clamp_min(1.0), torch.nan))
        self._clear()

    @property
    def num_updates(self) -> int:
        return len(self._losses) - 1

    @property
    def losses(self) -> Tensor:
        """(updates + 1,) float64: mean squared distance, of the initial clustering and of each group."""
        return torch.stack(self._losses)

    def finish(self) -> float:
        """The plain mean of `losses`; batches that do not fill a group are dropped, as the authors do.

        Raises:
            NonFiniteError: features were not finite.
        """
        losses = self.losses.cpu()
        if (bad := int(losses.isnan().sum())) > 0:
            raise NonFiniteError(
                f"k-means: {bad} of {len(losses)} groups of batches have features that are not finite; the "
                "model diverged. Lower optimizer.lr, or go back to an earlier checkpoint."
            )
        return float(losses.mean())
