"""Instance AP of Cityscapes through the authors' scripts (cityscapesscripts), as plain floats.

"The Cityscapes Dataset for Semantic Urban Scene Understanding" (https://arxiv.org/abs/1604.01685), section
4.2; https://github.com/mcordts/cityscapesScripts, evaluation/evalInstanceLevelSemanticLabeling.py.
"""

import copy
import importlib.util
import logging
import math
import os
import warnings
from glob import glob
from types import ModuleType

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator as Detectron2CityscapesEvaluator
from detectron2.utils import comm

from densessl.errors import ConfigError, DataError

logger = logging.getLogger(__name__)
GROUND_TRUTH = "_gtFine_instanceIds.png"


class CityscapesInstanceEvaluator(Detectron2CityscapesEvaluator):
    """detectron2's evaluator, whose numpy scalars neither JSON nor checkpoints take.

    Results are `{"segm": {"AP", "AP50", "AP-<class>", "AP50-<class>"}}` from 0 to 100; a class without ground
    truth is left out. {} on other ranks than the main one. AP is the mean over classes and over IoU 0.5, 0.55
    ... 0.95; instances below 100 pixels and crowds ("cargroup") are ignored.

    Differences from detectron2's: errors are raised before the training, and not by ending the process;
    nothing is written into the working directory; numpy 2.4, which has no `in1d`, works.

    Args:
        dataset_name: a registered data set with metadata `gt_dir` (.../gtFine/val) and `thing_classes`.

    Raises:
        ConfigError: cityscapesscripts is missing, the data set is not in Cityscapes' form, or the run spans
            several machines, which do not share the folder where predictions are collected.
        DataError: there is no ground truth.
    """

    def __init__(self, dataset_name: str) -> None:
        if importlib.util.find_spec("cityscapesscripts") is None:
            raise ConfigError(
                f"evaluator of {dataset_name}: cityscapesscripts is not installed; "
                "`pip install 'densessl[cityscapes]'`."
            )
        metadata = MetadataCatalog.get(dataset_name)
        for field in ("gt_dir", "thing_classes"):
            if metadata.get(field) is None:
                raise ConfigError(
                    f"evaluator of {dataset_name}: its metadata has no {field!r}; use one of detectron2's "
                    "cityscapes_fine_instance_seg_{train,val} or choose another evaluator."
                )
        if comm.get_local_size() != comm.get_world_size():
            raise ConfigError(
                f"evaluator of {dataset_name}: Cityscapes is evaluated on one machine. Train on one, or "
                "train without dataloader.evaluator and evaluate with --eval-only on one."
            )
        super().__init__(dataset_name)
        self._truth = sorted(glob(os.path.join(metadata.gt_dir, "*", f"*{GROUND_TRUTH}")))
        if not self._truth:
            raise DataError(
                f"data set {dataset_name!r}: no <city>/*{GROUND_TRUTH} below {metadata.gt_dir}; "
                "datasets/README.md shows the tree."
            )

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Writes masks and scores of some images into the folder that all ranks share."""
        names = self._metadata.thing_classes
        for output in outputs:
            classes = output["instances"].pred_classes if "instances" in output else ()
            if len(classes) and int(classes.max()) >= len(names):
                raise ConfigError(
                    f"the model predicted class {int(classes.max())}, but {self._metadata.name} has "
                    f"{len(names)}: set model.roi_heads.num_classes to that number."
                )
        super().process(inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Scores the predictions of all ranks.

        Raises:
            DataError: an image of the ground truth was not processed.
        """
        comm.synchronize()
        if not comm.is_main_process():
            return {}
        try:
            averages = _score(self._truth, [self._predictions(path) for path in self._truth], self._temp_dir)
        finally:
            self._working_dir.cleanup()
        values = {"AP": averages["allAp"], "AP50": averages["allAp50%"]}
        for name in self._metadata.thing_classes:
            values[f"AP-{name}"] = averages["classes"][name]["ap"]
            values[f"AP50-{name}"] = averages["classes"][name]["ap50%"]
        known = {name: 100.0 * float(value) for name, value in values.items() if math.isfinite(value)}
        logger.info("segm on %s: %s", self._metadata.name, {k: round(v, 2) for k, v in known.items()})
        return {"segm": known}

    def _predictions(self, truth: str) -> str:
        """The file that `process` wrote for an image of the ground truth."""
        image = os.path.basename(truth).removesuffix(GROUND_TRUTH)
        path = os.path.join(self._temp_dir, f"{image}_leftImg8bit_pred.txt")
        if not os.path.exists(path):
            raise DataError(
                f"evaluator of {self._metadata.name}: {truth} is ground truth, but its image was not among "
                "those that dataloader.test gave. Cityscapes' AP is of all images below gt_dir: test on them."
            )
        return path


def _score(truth: list[str], predictions: list[str], folder: str) -> dict:
    """The scripts' `evaluateImgLists` without its prints and its matches.json in the working directory."""
    api = _load_api()
    api.setInstanceLabels(api.args)
    args = copy.copy(api.args)
    args.predictionPath = os.path.abspath(folder)
    args.gtInstancesFile = os.path.join(folder, "gtInstances.json")
    args.quiet = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mean of empty slice", category=RuntimeWarning)
        instances = api.getGtInstances(truth, args)
        matches = api.matchGtWithPreds(predictions, truth, instances, args)
        return api.computeAverages(api.evaluateMatches(matches, args), args)


def _load_api() -> ModuleType:
    """The scripts' module; importing it costs a second, so only when it is needed."""
    import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as api

    if not hasattr(np, "in1d"):  # removed in numpy 2.4; cityscapesscripts 2.3.0 calls np.in1d
        api.np = _NumpyWithIn1d("numpy")
    return api


class _NumpyWithIn1d(ModuleType):
    """numpy as the scripts know it; put in the place of their `np` only."""

    @staticmethod
    def in1d(values: np.ndarray, members: list[int]) -> np.ndarray:
        return np.isin(values, members).ravel()

    def __getattr__(self, name: str):
        return getattr(np, name)
