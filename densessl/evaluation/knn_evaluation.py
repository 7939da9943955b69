"""Nearest-neighbour classification in the space of a frozen trunk's pooled features.

"Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (https://arxiv.org/abs/1805.01978),
section 3.4; facebookresearch/dino eval_knn.py, which open-mmlab/mmselfsup
mmselfsup/evaluation/functional/knn_eval.py adopts (k 10, 20, 100, 200, temperature 0.07). Letters: Q queries,
R reference images, D dimensions, K classes.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from densessl.errors import ConfigError
from densessl.evaluation.classification_evaluation import format_percent

logger = logging.getLogger(__name__)
TASK = "knn"
_CHUNK = 4096  # queries whose votes are counted at once: (4096, K) float64


class KNNEvaluator(DatasetEvaluator):
    """Classifies the queries by their nearest reference images, by cosine.

    One pass over a data set that holds both (`ReferenceAndQuery`). Each rank searches among the reference
    images it has seen itself; only the queries and the neighbours found travel, not the reference features.
    Results are `{"knn": {"top1_k10", "top5_k10", ...}}` in percent, {} on other ranks than the main one.

    Two differences from the originals: among the top 5 only classes count that have a neighbour (there,
    classes without a vote fill up the five in an arbitrary order), and the last incomplete chunk of queries
    is not cut off.

    Args:
        k: numbers of neighbours.
        temperature: T; a neighbour of cosine c votes with e^(c / T).
        vote: "weighted" as above, or "plain": one vote each, equal counts decided by the nearest neighbour.
    """

    def __init__(
        self,
        k: Sequence[int] = (10, 20, 100, 200),
        temperature: float = 0.07,
        vote: Literal["weighted", "plain"] = "weighted",
    ) -> None:
        if not k or min(k) < 1:
            raise ConfigError(f"evaluator.k={list(k)}: numbers of neighbours, each at least 1.")
        if not temperature > 0:
            raise ConfigError(
                f"evaluator.temperature={temperature}: it divides the cosine and must be positive."
            )
        if vote not in ("weighted", "plain"):
            raise ConfigError(f"evaluator.vote={vote!r}: use weighted or plain.")
        self.k, self.temperature, self.vote = tuple(k), temperature, vote
        self.reset()

    def reset(self) -> None:
        self._features: dict[bool, list[np.ndarray]] = {False: [], True: []}  # reference, query: (D,) float32
        self._rows: dict[bool, list[tuple[int, int]]] = {False: [], True: []}  # (index, label)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """
        Args:
            inputs: each with "index", "label" and "is_query".
            outputs: each {"features": (D,)}.
        """
        features = F.normalize(torch.stack([output["features"] for output in outputs]).float(), dim=1)
        for record, feature in zip(inputs, features.cpu().numpy(), strict=True):
            kind = bool(record["is_query"])
            self._features[kind].append(feature)
            self._rows[kind].append((record["index"], record["label"]))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Searches, and counts on the main process."""
        own_queries, own_query_rows = self._arrays(is_query=True)
        parts = comm.all_gather((own_queries, own_query_rows))
        filled = [part for part in parts if len(part[1])]
        reference, rows = self._arrays(is_query=False)
        sizes = comm.all_gather(len(rows))
        if not filled or not sum(sizes):
            logger.warning("%d queries and %d references: kNN is n/a.", len(filled), sum(sizes))
            return {}
        queries = np.concatenate([part[0] for part in filled])
        labels = np.concatenate([part[1] for part in filled])[:, 1]
        wanted = min(max(self.k), sum(sizes))
        found = comm.gather(nearest(queries, reference, rows, wanted))
        if not comm.is_main_process():
            return {}
        cosine, neighbours = merge_neighbours(found, wanted)
        results = {}
        for k in self.k:
            if k > wanted:
                logger.warning("k = %d, and there are %d reference images: all are used.", k, wanted)
            places = vote(cosine[:, :k], neighbours[:, :k], labels, self.temperature, self.vote)
            results[f"top1_k{k}"] = 100.0 * float((places < 1).mean())
            results[f"top5_k{k}"] = 100.0 * float((places < 5).mean())
        found_in = "kNN of %d queries among %d images: %s"
        logger.info(found_in, len(labels), sum(sizes), format_percent(results))
        return {TASK: results}

    def _arrays(self, is_query: bool) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) float32 and (n, 2) int64 of this rank; n may be 0."""
        features = self._features[is_query]
        rows = np.array(self._rows[is_query], np.int64).reshape(-1, 2)
        return (np.stack(features) if features else np.zeros((0, 0), np.float32)), rows


def nearest(
    queries: np.ndarray, reference: np.ndarray, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k most similar reference images of each query, among those given (all, if there are fewer).

    Args:
        queries: (Q, D) float32, unit length.
        reference: (R, D) float32, unit length.
        rows: (R, 2) int64, index in the data set and label.

    Returns:
        cosines (Q, min(k, R)) float32 in falling order, indices in the data set, labels.
    """
    k = min(k, len(rows))
    if k == 0:
        empty = np.zeros((len(queries), 0))
        return empty.astype(np.float32), empty.astype(np.int64), empty.astype(np.int64)
    import faiss  # at call: 0.3 s

    cosine, index = faiss.knn(queries, reference, k, metric=faiss.METRIC_INNER_PRODUCT)
    return cosine, rows[index, 0], rows[index, 1]


def merge_neighbours(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of what each rank found; equal cosines in the order of the data set.

    Returns:
        cosines and labels, (Q, k) each, nearest first.
    """
    cosine, index, label = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
    order = np.lexsort((index, -cosine), axis=1)[:, :k]
    return np.take_along_axis(cosine, order, 1), np.take_along_axis(label, order, 1)


def vote(
    cosine: np.ndarray, neighbours: np.ndarray, labels: np.ndarray, temperature: float, kind: str
) -> np.ndarray:
    """Place of each query's own class in the vote, from 0; the number of classes where it has no vote.

    Args:
        cosine: (Q, k), nearest first.
        neighbours: (Q, k) labels.
        labels: (Q,) true labels.
        temperature: T of the weighted vote.
        kind: "weighted" or "plain".
    """
    num_classes = int(max(neighbours.max(), labels.max())) + 1
    places = np.empty(len(labels), np.int64)
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, start + _CHUNK)
        votes = _count(cosine[part].astype(np.float64), neighbours[part], num_classes, temperature, kind)
        own = np.take_along_axis(votes, labels[part, None], 1)  # (q, 1)
        before = np.arange(num_classes) < labels[part, None]
        place = (votes > own).sum(1) + ((votes == own) & before).sum(1)
        places[part] = np.where(own[:, 0] > 0, place, num_classes)
    return places


def _count(
    cosine: np.ndarray, neighbours: np.ndarray, num_classes: int, temperature: float, kind: str
) -> np.ndarray:
    """(q, K) float64 votes."""
    queries, k = np.arange(len(neighbours)), neighbours.shape[1]
    votes = np.zeros((len(neighbours), num_classes))
    nearest_first = np.zeros_like(votes)
    for rank in reversed(range(k)):
        column = neighbours[:, rank]
        votes[queries, column] += np.exp(cosine[:, rank] / temperature) if kind == "weighted" else 1.0
        nearest_first[queries, column] = (k - rank) / (2 * k)  # below 1: decides between equal counts only
    return votes if kind == "weighted" else votes + nearest_first
