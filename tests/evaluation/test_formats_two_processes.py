"""Evaluators of VOC, Cityscapes and keypoints, and the counts of FCOS: two processes give what one gives."""

import json
import sys
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.data.datasets.pascal_voc import register_pascal_voc

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "modeling"))
import test_cityscapes_evaluation as cityscapes
import test_fcos as fcos
import test_keypoint_evaluation as keypoints
import test_voc_evaluation as voc
from format_builders import write_cityscapes, write_keypoints, write_voc

from densessl.evaluation.cityscapes_evaluation import CityscapesInstanceEvaluator
from densessl.evaluation.coco_evaluation import COCOEvaluator
from densessl.evaluation.voc_evaluation import PascalVOCDetectionEvaluator

NAMES = ("two_processes_voc", "two_processes_cityscapes", "two_processes_keypoints")


def measure(root: Path, rank: int, world_size: int) -> dict:
    """Scores every `world_size`-th image of each set; the sets are registered in this process."""
    register_pascal_voc(NAMES[0], str(root / "voc"), "test", 2007, voc.CLASSES)
    cityscapes.register(root / "cityscapes", NAMES[1])
    metadata = _get_builtin_metadata("coco_person")
    register_coco_instances(NAMES[2], metadata, str(root / "persons/keypoints.json"), str(root))
    pairs = [(r, voc.shifted_truth(r, 10.0, voc.CLASSES)) for r in DatasetCatalog.get(NAMES[0])]
    results = {"voc": process(PascalVOCDetectionEvaluator(NAMES[0]), pairs[rank::world_size])}
    pairs = cityscapes.shifted(cityscapes.truth_of(NAMES[1]), 8)
    results["cityscapes"] = process(CityscapesInstanceEvaluator(NAMES[1]), pairs[rank::world_size])
    pairs = [(r, keypoints.detections(r, None, offset=12.0)) for r in DatasetCatalog.get(NAMES[2])]
    results["keypoints"] = process(COCOEvaluator(NAMES[2]), pairs[rank::world_size])
    maps = [[m[rank::world_size] for m in level] for level in fcos.random_maps(2)]
    losses = fcos.loss_of(fcos.model(), maps, fcos.IMAGES[:2][rank::world_size])
    return results | {"losses": [float(value) for value in losses.values()]}


def process(evaluator, pairs: list) -> dict:
    evaluator.reset()
    for record, output in pairs:
        evaluator.process([record], [{"instances": output}])
    return evaluator.evaluate()


def _one_of_two(rank: int, root: str) -> None:
    from detectron2.utils import comm

    torch.set_num_threads(1)
    rendezvous = f"file://{root}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    Path(root, f"rank{rank}.json").write_text(json.dumps(measure(Path(root), rank, 2)))
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    write_voc(tmp_path / "voc", voc.TRUTH, "test")
    write_cityscapes(tmp_path / "cityscapes", "val")
    write_keypoints(tmp_path / "persons", size=keypoints.SIZE)
    torch.multiprocessing.spawn(_one_of_two, args=(str(tmp_path),), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    expected = measure(tmp_path, 0, 1)
    for task in ("voc", "cityscapes", "keypoints"):
        assert first[task] == expected[task]
        assert second[task] == {}
    assert 0 < expected["keypoints"]["keypoints"]["AP"] < 90
    # DDP averages over ranks: both divide by the mean count, so the mean of the losses is one process's
    assert [(a + b) / 2 for a, b in zip(first["losses"], second["losses"])] == pytest.approx(
        expected["losses"], rel=1e-5
    )
    assert first["losses"] != second["losses"]
