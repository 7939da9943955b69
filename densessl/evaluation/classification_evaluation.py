"""Top-1 and top-5 accuracy of image classifiers."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

logger = logging.getLogger(__name__)
TASK = "classification"


class ClassificationEvaluator(DatasetEvaluator):
    """Share of images, in percent, whose class is among the k with the highest scores.

    Results are `{"classification": {"top1": ..., "top5": ...}}`, and `top1_<head>` for a model with several
    heads; {} on other ranks than the main one, and where there was no image. Each image counts once, by its
    `image_id`, also where a sampler gave it to two ranks. Equal scores rank in the order of the classes, so
    that a model whose scores are all equal is at chance; an image with a score that is not a number counts as
    wrong and is reported.

    Args:
        top_k: the values of k.
    """

    def __init__(self, top_k: Sequence[int] = (1, 5)) -> None:
        self.top_k = tuple(top_k)
        self.reset()

    def reset(self) -> None:
        self._places: dict[Any, dict[str, int]] = {}  # image -> {head: place of its class, from 0}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """
        Args:
            inputs: each with "image_id" and "label".
            outputs: each {"scores": (K,)} or {"scores": {head: (K,)}}.
        """
        if not all(isinstance(output["scores"], dict) for output in outputs):
            outputs = [{"scores": {"": output["scores"]}} for output in outputs]
        labels = torch.tensor([record["label"] for record in inputs])
        places: list[dict[str, int]] = [{} for _ in inputs]
        for head in outputs[0]["scores"]:
            scores = torch.stack([output["scores"][head] for output in outputs]).cpu()
            for image, place in zip(places, places_of_classes(scores, labels).tolist(), strict=True):
                image[head] = place
        self._places.update(zip((record["image_id"] for record in inputs), places))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gathers all ranks' places and counts them."""
        gathered = comm.gather(self._places)
        if not comm.is_main_process():
            return {}
        places: dict[Any, dict[str, int]] = {}
        for part in gathered:
            places.update(part)
        if not places:
            logger.warning("No image was evaluated, accuracy is n/a.")
            return {}
        results = {}
        for head in next(iter(places.values())):
            own = torch.tensor([place[head] for place in places.values()])
            if (bad := int((own < 0).sum())) > 0:
                logger.warning("%d of %d images have scores that are not numbers.", bad, len(own))
            for k in self.top_k:
                name = f"top{k}_{head}" if head else f"top{k}"
                results[name] = 100.0 * float(((own >= 0) & (own < k)).double().mean())
        logger.info("Accuracy on %d images: %s", len(places), format_percent(results))
        return {TASK: results}


def format_percent(results: Mapping[str, float]) -> str:
    """One line for the log."""
    return "  ".join(f"{name} {value:.2f}" for name, value in results.items())


def places_of_classes(scores: Tensor, labels: Tensor) -> Tensor:
    """How many classes rank before each image's own; -1 where a score is NaN.

    Args:
        scores: (N, K).
        labels: (N,) int64.

    Returns:
        (N,) int64; equal scores rank in the order of the classes.
    """
    own = scores.gather(1, labels[:, None])  # (N, 1)
    before = torch.arange(scores.shape[1]) < labels[:, None]  # (N, K)
    places = (scores > own).sum(1) + ((scores == own) & before).sum(1)
    return torch.where(scores.isnan().any(1), -1, places)
