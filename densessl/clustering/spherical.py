"""Spherical k-means of feature cells, the same every time: for numbers and pictures, not for training.

n cells, C channels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS, STARTS, SEED = 20, 3, 0


def cluster_cells(features: Tensor, num_clusters: int) -> Tensor:
    """Spherical k-means by faiss from k-means++ starts, the best of STARTS; the same every time.

    faiss itself starts from random rows; on well separated groups that often leaves one without a centre.

    Args:
        features: (n, C), any length.

    Returns:
        (n,) int64 cluster of each cell; fewer clusters where there are fewer cells.
    """
    import faiss  # at call: 0.3 s

    rows = F.normalize(features.float(), dim=1).contiguous().cpu().numpy()
    clusters = min(num_clusters, len(rows))
    best, best_sum = None, -np.inf
    for start in range(STARTS):
        kmeans = faiss.Kmeans(
            rows.shape[1],
            clusters,
            niter=ITERATIONS,
            seed=SEED,
            spherical=True,
            min_points_per_centroid=1,  # a probe is small; faiss would warn
            max_points_per_centroid=len(rows),  # and use all of it
        )
        kmeans.train(rows, init_centroids=_spread_rows(rows, clusters, np.random.default_rng(SEED + start)))
        cosine, assignment = kmeans.index.search(rows, 1)
        if cosine.sum() > best_sum:
            best, best_sum = assignment[:, 0], cosine.sum()
    return torch.from_numpy(best)


def _spread_rows(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, C): k-means++ (Arthur and Vassilvitskii 2007), each row drawn by its squared distance."""
    chosen = [int(rng.integers(len(rows)))]
    distance = np.full(len(rows), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(rows - rows[chosen[-1]]).sum(1, dtype=np.float64))
        total = distance.sum()
        share = distance / total if total > 0 else None  # fewer different rows than clusters
        chosen.append(int(rng.choice(len(rows), p=share)))
    return rows[chosen]
