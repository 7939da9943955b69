"""Pascal VOC AP through detectron2's evaluator, as plain floats."""

import math

from detectron2.evaluation import PascalVOCDetectionEvaluator as Detectron2VOCEvaluator


class PascalVOCDetectionEvaluator(Detectron2VOCEvaluator):
    """detectron2's evaluator (11-point AP for 2007), whose numpy scalars neither JSON nor checkpoints take.

    Results are `{"bbox": {"AP", "AP50", "AP75"}}` from 0 to 100; {} on other ranks than the main one. A
    metric that has no value is left out, as in `COCOEvaluator`.
    """

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gathers all ranks' detections and scores them."""
        results = super().evaluate() or {}
        return {
            task: {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
            for task, metrics in results.items()
        }
