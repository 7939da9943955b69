"""Unsupervised semantic segmentation: clusters matched to classes, then mIoU and accuracy.

"PiCIE: Unsupervised Semantic Segmentation using Invariance and Equivariance in Clustering"
(https://arxiv.org/abs/2103.17070), section 4.1; authors' code janghyuncho/PiCIE, commons.py:186-241;
"DenseSiam" (https://arxiv.org/abs/2203.11075), ZwwWayne/DenseSiam cluster_mIoU_evaluator.py.
Letters: G classes, K clusters.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from densessl.clustering.assignment import (
    adjusted_rand_index,
    confusion_matrix,
    hungarian_match,
    majority_match,
    merge_clusters,
    normalized_mutual_information,
)
from densessl.errors import ConfigError

logger = logging.getLogger(__name__)
TASK = "cluster_seg"
Cells = tuple[np.ndarray, np.ndarray]  # non-zero cells of an image's confusion matrix, and their counts


class ClusterSegEvaluator(DatasetEvaluator):
    """Matches clusters to classes on the confusion matrix of all images and scores the match.

    Results, in percent except NMI and ARI, are `{"cluster_seg": {...}}`; {} on other ranks than the main one
    and without a labelled pixel. What is not defined (a class in neither truth nor match, a part without
    pixels) is left out:

    - `mIoU`, `acc` (of pixels), `mAcc` (mean over classes), `IoU-<class>`: one cluster per class (Hungarian).
      A class without cluster has IoU 0; pixels in a cluster without class are wrong;
    - `thing_*` and `stuff_*` for `mIoU`, `acc`, `mAcc`: only pixels whose true and predicted classes are both
      things (stuff), the definition that the papers intend;
    - `thing_mIoU_full`, `stuff_mIoU_full`: mean of the IoU above over things (stuff), so that confusion of
      the two parts counts;
    - `thing_mIoU_as_published`, ...: what the authors' code printed. Its matrix has rows in the order of the
      clusters, so that the split is of cluster numbers, not of things and stuff. For comparison with their
      logs only; needs G = K;
    - `many_to_one_mIoU`, `many_to_one_acc`: each cluster takes the class of most of its pixels;
    - `NMI`, `ARI`: agreement without a match.

    A model with several classifiers gives `<name>_<classifier>` for each.

    Each image counts once, by its `image_id`, also where a sampler gave it to two ranks: the non-zero cells
    of its own matrix are kept, about 0.5 kB.

    Args:
        class_names: of the G classes.
        num_clusters: K; None: G.
        is_thing: G truth values, for the split; None: no split.
        ignore_label: of pixels without class.

    Raises:
        ConfigError: the two lists differ in length.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        num_clusters: int | None = None,
        is_thing: Sequence[bool] | None = None,
        ignore_label: int = 255,
    ) -> None:
        self.class_names = list(class_names)
        self.num_clusters = len(self.class_names) if num_clusters is None else num_clusters
        self.is_thing = None if is_thing is None else np.asarray(list(is_thing), bool)
        self.ignore_label = ignore_label
        if self.is_thing is not None and len(self.is_thing) != len(self.class_names):
            raise ConfigError(
                f"evaluator: {len(self.is_thing)} values of is_thing for {len(self.class_names)} classes."
            )
        self.reset()

    def reset(self) -> None:
        self._cells: dict[Any, dict[str, Cells]] = {}  # image -> {classifier: cells}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """
        Args:
            inputs: each with "image_id" and "sem_seg", (H, W) integer classes.
            outputs: each {"sem_seg": x} or {"sem_seg": {classifier: x}}, where x is (K, h, w) float scores,
                resized to (H, W) by bilinear interpolation before the largest is taken, or (H, W) integer
                clusters.
        """
        for record, output in zip(inputs, outputs, strict=True):
            prediction = output["sem_seg"]
            heads = prediction if isinstance(prediction, dict) else {"": prediction}
            self._cells[record["image_id"]] = {
                head: self._count(record["sem_seg"], scores) for head, scores in heads.items()
            }

    def _count(self, truth: Tensor, prediction: Tensor) -> Cells:
        if prediction.is_floating_point():
            size = tuple(truth.shape)
            if tuple(prediction.shape[-2:]) != size:
                prediction = F.interpolate(prediction[None].float(), size, mode="bilinear")[0]
            prediction = prediction.argmax(0)
        counts = confusion_matrix(
            truth.to(prediction.device),
            prediction,
            len(self.class_names),
            self.num_clusters,
            self.ignore_label,
        )
        counts = counts.flatten().cpu().numpy()
        cells = np.flatnonzero(counts).astype(np.int32)
        return cells, counts[cells]

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gathers the counts of all ranks, matches and scores."""
        gathered = comm.gather(self._cells)
        if not comm.is_main_process():
            return {}
        images: dict[Any, dict[str, Cells]] = {}
        for part in gathered:
            images.update(part)
        results: dict[str, float] = {}
        for head in next(iter(images.values()), {}):
            confusion = np.zeros(len(self.class_names) * self.num_clusters, np.int64)
            for image in images.values():
                cells, counts = image[head]
                confusion[cells] += counts
            confusion = confusion.reshape(-1, self.num_clusters)
            suffix = f"_{head}" if head else ""
            values = score_clusters(confusion, self.class_names, self.is_thing)
            results.update({f"{name}{suffix}": value for name, value in values.items()})
        if not results:
            logger.warning("No labelled pixel was evaluated, the scores are n/a.")
            return {}
        shown = {name: round(value, 2) for name, value in results.items() if "-" not in name}
        logger.info("Clusters on %d images: %s", len(images), shown)
        return {TASK: results}


def score_clusters(
    confusion: np.ndarray, class_names: Sequence[str], is_thing: np.ndarray | None = None
) -> dict[str, float]:
    """The numbers of `ClusterSegEvaluator`, without those that are not defined.

    Args:
        confusion: (G, K) counts.
        class_names: G names.
        is_thing: (G,) bool; None: no split.
    """
    if confusion.sum() == 0:
        return {}
    match = hungarian_match(confusion)
    merged = merge_clusters(confusion, match)
    iou, values = _scores(merged)
    values.update({f"IoU-{name}": 100.0 * x for name, x in zip(class_names, iou, strict=True)})
    if is_thing is not None:
        printed = _rows_in_cluster_order(confusion, match)
        for part, mask in {"thing": is_thing, "stuff": ~is_thing}.items():
            block = _scores(merged[np.ix_(mask, np.append(mask, False))])[1]
            values.update({f"{part}_{name}": value for name, value in block.items()})
            values[f"{part}_mIoU_full"] = _mean_percent(iou[mask])
            if printed is not None:
                things = int(is_thing.sum())
                where = slice(0, things) if part == "thing" else slice(things, None)
                block = _scores(printed[where, where])[1]
                values.update({f"{part}_{name}_as_published": value for name, value in block.items()})
    many = _scores(merge_clusters(confusion, majority_match(confusion)))[1]
    values.update({f"many_to_one_{name}": many[name] for name in ("mIoU", "acc")})
    values["NMI"] = normalized_mutual_information(confusion)
    values["ARI"] = adjusted_rand_index(confusion)
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _scores(merged: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """IoU in [0, 1] of each class, and mIoU, acc, mAcc in percent; NaN where not defined.

    Args:
        merged: (G, >= G) counts, class g in column g, pixels of no class after them.
    """
    size = len(merged)
    hits, truth, found = np.diag(merged), merged.sum(1), merged[:, :size].sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        iou, recall = hits / (truth + found - hits), hits / truth
        acc = 100.0 * np.float64(hits.sum()) / truth.sum()
    return iou, {"mIoU": _mean_percent(iou), "acc": acc, "mAcc": _mean_percent(recall)}


def _mean_percent(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return 100.0 * float(values.mean()) if len(values) else float("nan")


def _rows_in_cluster_order(confusion: np.ndarray, match: np.ndarray) -> np.ndarray | None:
    """The matrix that the authors split (PiCIE utils.py:110-123); None unless every cluster has a class."""
    if confusion.shape[0] != confusion.shape[1]:
        return None
    return confusion[match]
