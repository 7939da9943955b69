"""COCO box, mask and keypoint AP through faster-coco-eval.

faster-coco-eval computes what pycocotools computes (the tests compare every digit) several times faster,
and, unlike detectron2's own fast path, without detectron2's compiled extension.
https://github.com/MiXaiLL76/faster_coco_eval
"""

import copy
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator as Detectron2COCOEvaluator
from faster_coco_eval import COCO, COCOeval_faster
from tabulate import tabulate

from densessl.errors import ConfigError

logger = logging.getLogger(__name__)
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # order of COCOeval's first six statistics
KEYPOINT_METRICS = ("AP", "AP50", "AP75", "APm", "APl")  # small persons have no keypoints
TASKS = ("bbox", "segm", "keypoints")
COCO_KEYPOINTS = 17


class COCOEvaluator(Detectron2COCOEvaluator):
    """detectron2's `COCOEvaluator` with another engine and without its silent failures.

    Results are `{"bbox": {...}, "segm": {...}, "keypoints": {...}}` with AP, AP50, AP75, APs (not of
    keypoints), APm, APl, and AP-<class> and AP50-<class> where there are several classes; plain floats from 0
    to 100. A metric that has no value (no predictions at all, or no ground truth of that size or class) is
    left out and logged as n/a, so that no NaN reaches logs, JSON or averages. Ranks other than the main one
    get {}. Keypoints are compared by object keypoint similarity, which the area of the person scales
    (https://cocodataset.org/#keypoints-eval).

    Args:
        dataset_name: a registered data set with COCO annotations. It is loaded if it was not before:
            otherwise detectron2 would not map classes back to category ids and report AP 0 in silence.
        tasks: of "bbox", "segm" and "keypoints"; None takes what the predictions have.
        distributed: gather predictions of all ranks; False evaluates those of this process.
        output_dir: where to write coco_instances_results.json and instances_predictions.pth, if anywhere.
        max_dets_per_image: detections that count, best first; of persons with keypoints always 20.
        keypoint_sigmas: tolerance of each keypoint relative to the size of the object; None: COCO's 17.

    Raises:
        ConfigError: an unknown task, a data set without COCO annotations or category ids, or "keypoints" of
            a data set that has none or another number of them than there are tolerances.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 100,
        keypoint_sigmas: Sequence[float] | None = None,
    ) -> None:
        if tasks is not None and not set(tasks) <= set(TASKS):
            raise ConfigError(f"evaluator of {dataset_name}: tasks {list(tasks)}; choose from {list(TASKS)}.")
        metadata = MetadataCatalog.get(dataset_name)
        if metadata.get("thing_dataset_id_to_contiguous_id") is None and dataset_name in DatasetCatalog:
            DatasetCatalog.get(dataset_name)  # fills the metadata
        for field in ("json_file", "thing_dataset_id_to_contiguous_id"):
            if metadata.get(field) is None:
                raise ConfigError(
                    f"evaluator of {dataset_name}: its metadata has no {field!r}; register it with COCO "
                    "annotations (detectron2's register_coco_instances) or choose another evaluator."
                )
        super().__init__(
            dataset_name,
            tasks=None if tasks is None else tuple(tasks),
            distributed=distributed,
            output_dir=output_dir,
            use_fast_impl=False,
            kpt_oks_sigmas=() if keypoint_sigmas is None else tuple(keypoint_sigmas),
        )
        self._max_dets_per_image = [1, 10, max_dets_per_image]
        # In place of pycocotools' object, which the other engine does not take.
        self._coco_api = COCO(copy.deepcopy(self._coco_api.dataset))
        if tasks is not None and "keypoints" in tasks and self._do_evaluation:
            self._check_keypoints()

    def _check_keypoints(self) -> None:
        """Refuses a data set whose annotations COCOeval would fail on, after the training."""
        expected = self._num_keypoints()
        for annotation in self._coco_api.anns.values():
            found = _keypoints_in(annotation)
            if found != expected:
                raise ConfigError(
                    f"evaluator of {self._metadata.name}: task 'keypoints' needs {expected} keypoints in "
                    f"each annotation of {self._metadata.json_file}; number {annotation.get('id')} has "
                    f"{found}. Use a keypoint data set (keypoints_coco_2017_val), give "
                    'evaluator.keypoint_sigmas one number per keypoint, or take "keypoints" out of '
                    "evaluator.tasks."
                )

    def _eval_predictions(self, predictions: list[dict], img_ids: list | None = None) -> None:
        """Fills `self._results` from gathered predictions (overrides detectron2's)."""
        detections = [detection for image in predictions for detection in image["instances"]]
        self._to_dataset_categories(detections)
        if self._output_dir:
            path = Path(self._output_dir, "coco_instances_results.json")
            path.write_text(json.dumps(detections))
            logger.info("Detections written to %s", path)
        if not self._do_evaluation:
            logger.info("%s has no annotations: nothing to score.", self._metadata.name)
            return
        for task in self._tasks or self._tasks_from_predictions(detections):
            evaluation = self._run_engine(detections, task, img_ids) if detections else None
            self._results[task] = self._derive_coco_results(evaluation, task)

    def _num_keypoints(self) -> int:
        return len(self._kpt_oks_sigmas) or COCO_KEYPOINTS

    def _to_dataset_categories(self, detections: list[dict]) -> None:
        """Replaces contiguous class indices by the data set's category ids, in place."""
        mapping = self._metadata.thing_dataset_id_to_contiguous_id
        category_ids = {index: category for category, index in mapping.items()}
        for detection in detections:
            index = detection["category_id"]
            if index not in category_ids:
                raise ConfigError(
                    f"the model predicted class {index}, but {self._metadata.name} has {len(category_ids)}: "
                    "set model.roi_heads.num_classes to that number."
                )
            detection["category_id"] = category_ids[index]

    def _run_engine(self, detections: list[dict], task: str, img_ids: list | None) -> COCOeval_faster:
        """Matches and accumulates; the returned object holds `stats` and `eval`."""
        # loadRes writes into its argument. Without the box, the size of a mask is the mask's, as in COCO.
        dropped = ("bbox",) if task == "segm" else ()
        fields = [{k: v for k, v in d.items() if k not in dropped} for d in detections]
        found = self._coco_api.loadRes(fields)
        evaluation = COCOeval_faster(self._coco_api, found, task, print_function=no_print)
        if task != "keypoints":
            evaluation.params.maxDets = self._max_dets_per_image
        elif _keypoints_in(detections[0]) != self._num_keypoints():
            raise ConfigError(
                f"the model predicted {_keypoints_in(detections[0])} keypoints, but {self._metadata.name} "
                f"has {self._num_keypoints()}: set model.roi_heads.keypoint_head.num_keypoints to that."
            )
        elif self._kpt_oks_sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(self._kpt_oks_sigmas)
        if img_ids is not None:
            evaluation.params.imgIds = img_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation

    def _derive_coco_results(
        self, coco_eval: COCOeval_faster | None, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        """Metrics in percent; those without a value are missing (overrides detectron2's).

        Args:
            coco_eval: None when there are no detections.
            iou_type: the task's name, for the log.
            class_names: default: the data set's.
        """
        if coco_eval is None:
            logger.warning("%s on %s: no predictions at all, metrics are n/a.", iou_type, self._metadata.name)
            return {}
        metrics = KEYPOINT_METRICS if iou_type == "keypoints" else METRICS
        values = {name: float(value) for name, value in zip(metrics, coco_eval.stats)}
        names = class_names if class_names is not None else self._metadata.get("thing_classes", ())
        if len(names) > 1:
            values.update(per_class_ap(coco_eval.eval["precision"], names))
        known = {name: 100.0 * value for name, value in values.items() if math.isfinite(value) and value >= 0}
        logger.info("%s on %s:\n%s", iou_type, self._metadata.name, results_table(known, names))
        return known


def _keypoints_in(annotation: Mapping) -> int:
    """How many keypoints a COCO annotation or result has: x, y and a third number for each."""
    return len(annotation.get("keypoints", ())) // 3


def no_print(*_: object) -> None:
    """In place of COCOeval's summary, which repeats the table in another form."""


def results_table(metrics: Mapping[str, float], names: Sequence[str]) -> str:
    """Text table: a row for all classes and, if there are several, one for each; "n/a" where no value is."""
    rows = [["all", *(metrics.get(metric) for metric in METRICS)]]
    if len(names) > 1:
        rows += [[name, metrics.get(f"AP-{name}"), metrics.get(f"AP50-{name}")] for name in names]
    return tabulate(rows, headers=["class", *METRICS], tablefmt="pipe", floatfmt=".2f", missingval="n/a")


def per_class_ap(precision: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """AP-<class> and AP50-<class> in [0, 1], NaN for classes without ground truth.

    Args:
        precision: COCOeval's (10 IoU thresholds from 0.5, 101 recalls, classes, 4 areas, 3 limits); -1 marks
            what could not be computed.
        names: of the classes, in category order.
    """
    values = {}
    for prefix, thresholds in (("AP", slice(None)), ("AP50", slice(0, 1))):
        for index, name in enumerate(names):
            valid = precision[thresholds, :, index, 0, -1]
            valid = valid[valid > -1]
            values[f"{prefix}-{name}"] = float(valid.mean()) if valid.size else math.nan
    return values
