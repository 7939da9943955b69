"""COCO evaluation against pycocotools (through detectron2's evaluator), and its edge cases."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator as OracleEvaluator
from detectron2.structures import Boxes, Instances

from densessl.data.datasets.sample_writer import CocoWriter, mask_to_rle, segmentation_to_mask
from densessl.errors import ConfigError
from densessl.evaluation.coco_evaluation import COCOEvaluator, per_class_ap, results_table

SIZE = 160
CLASSES = ("ant", "bee", "cat")


def ellipse(rng: np.random.Generator) -> np.ndarray:
    """A random (SIZE, SIZE) bool ellipse; sides from 8 to 130 pixels cover COCO's three size ranges."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    radii = rng.uniform(4, 65, 2)
    centre = rng.uniform(20, SIZE - 20, 2)
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1


def octagon(rng: np.random.Generator) -> list[list[float]]:
    """A random polygon in COCO form."""
    angles = np.arange(8) * np.pi / 4
    centre, radius = rng.uniform(40, SIZE - 40, 2), rng.uniform(6, 40)
    points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    return [[float(v) for v in points.ravel()]]


@pytest.fixture
def dataset(tmp_path, request):
    """Registers 12 images with polygons, RLE masks and a crowd region; yields (name, records)."""
    from PIL import Image

    rng = np.random.default_rng(5)
    writer = CocoWriter(tmp_path, "val", CLASSES, "test")
    for index in range(12):
        image_id = writer.add_image(Image.new("RGB", (SIZE, SIZE)), f"{index}.jpg")
        for _ in range(int(rng.integers(1, 6))):
            shape = octagon(rng) if rng.random() < 0.5 else mask_to_rle(ellipse(rng))
            writer.add_instance(image_id, int(rng.integers(3)), shape)
    writer.add_instance(3, 1, mask_to_rle(ellipse(rng)), iscrowd=1)
    # category ids that are not 1..C, as in COCO itself
    for category in writer.document["categories"]:
        category["id"] *= 10
    for annotation in writer.document["annotations"]:
        annotation["category_id"] *= 10
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(writer.document))
    name = f"evaluation_{request.node.name}"
    register_coco_instances(name, {}, str(path), str(tmp_path / "images" / "val"))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def detections_like(record: dict, rng: np.random.Generator) -> Instances:
    """The truth of an image shifted, with some classes wrong, some missing and some invented."""
    masks, classes = [], []
    for annotation in record["annotations"]:
        mask = segmentation_to_mask(annotation["segmentation"], SIZE, SIZE)
        masks.append(np.roll(mask, rng.integers(-6, 7, 2), (0, 1)))
        wrong = rng.random() < 0.15
        classes.append(int(rng.integers(3)) if wrong else annotation["category_id"])
    for _ in range(int(rng.integers(0, 4))):
        masks.append(ellipse(rng))
        classes.append(int(rng.integers(3)))
    kept = [i for i in range(len(masks)) if rng.random() < 0.9 and masks[i].any()]
    masks = np.stack([masks[i] for i in kept]) if kept else np.zeros((0, SIZE, SIZE), bool)
    boxes = []
    for mask in masks:
        y, x = np.nonzero(mask)
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1] + rng.normal(0, 1, 4))
    out = Instances((SIZE, SIZE))
    out.pred_boxes = Boxes(torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32))
    out.scores = torch.tensor(rng.random(len(masks)), dtype=torch.float32)
    out.pred_classes = torch.tensor([classes[i] for i in kept], dtype=torch.int64)
    out.pred_masks = torch.tensor(masks)
    return out


def run(evaluator, records: list[dict], outputs: list[Instances]) -> dict:
    evaluator.reset()
    for record, output in zip(records, outputs):
        evaluator.process([record], [{"instances": output}])
    return evaluator.evaluate()


def no_detections() -> Instances:
    out = Instances((SIZE, SIZE))
    out.pred_boxes, out.scores = Boxes(torch.zeros(0, 4)), torch.zeros(0)
    out.pred_classes, out.pred_masks = (
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, SIZE, SIZE, dtype=bool),
    )
    return out


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_pycocotools_to_every_digit(dataset, tmp_path, seed):
    rng = np.random.default_rng(seed)
    records = DatasetCatalog.get(dataset)
    outputs = [detections_like(record, rng) for record in records]
    own = run(COCOEvaluator(dataset, output_dir=str(tmp_path / "own")), records, outputs)
    oracle = run(OracleEvaluator(dataset, use_fast_impl=False), records, outputs)
    assert set(own) == set(oracle) == {"bbox", "segm"}
    for task in own:
        assert 20 < own[task]["AP50"] < 100  # the comparison says something
        for name, value in oracle[task].items():
            if math.isnan(value):
                assert name not in own[task]
            else:
                assert own[task][name] == pytest.approx(value, abs=1e-9)
        extra = set(own[task]) - set(oracle[task])
        assert extra <= {f"AP50-{name}" for name in CLASSES}
    assert json.loads((tmp_path / "own" / "coco_instances_results.json").read_text())


def test_results_are_plain_floats_and_perfect_detections_score_100(dataset):
    records = DatasetCatalog.get(dataset)
    outputs = []
    for record in records:
        truth = [a for a in record["annotations"] if not a["iscrowd"]]
        masks = np.stack([segmentation_to_mask(a["segmentation"], SIZE, SIZE) for a in truth])
        out = Instances((SIZE, SIZE))
        boxes = torch.tensor([a["bbox"] for a in truth], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        out.pred_boxes, out.scores = Boxes(boxes), torch.ones(len(truth))
        out.pred_classes = torch.tensor([a["category_id"] for a in truth])
        out.pred_masks = torch.tensor(masks)
        outputs.append(out)
    results = run(COCOEvaluator(dataset), records, outputs)
    assert results["bbox"]["AP"] == pytest.approx(100.0)
    assert results["segm"]["AP"] == pytest.approx(100.0)
    assert results["segm"]["AP50-bee"] == pytest.approx(100.0)
    assert all(type(value) is float for metrics in results.values() for value in metrics.values())


def test_no_predictions_leave_metrics_out(dataset):
    records = DatasetCatalog.get(dataset)
    outputs = [no_detections() for _ in records]
    assert run(COCOEvaluator(dataset, tasks=("bbox", "segm")), records, outputs) == {"bbox": {}, "segm": {}}
    assert run(COCOEvaluator(dataset), [], []) == {}


def test_only_small_truth_has_no_value_for_large(dataset):
    records = DatasetCatalog.get(dataset)
    evaluator = COCOEvaluator(dataset, tasks=("bbox",))
    for annotation in evaluator._coco_api.dataset["annotations"]:
        annotation["area"] = 50.0
    results = run(evaluator, records, [detections_like(r, np.random.default_rng(0)) for r in records])
    assert "APl" not in results["bbox"]
    assert results["bbox"]["APs"] > 0


def test_loads_a_data_set_that_was_not_loaded_before(dataset):
    # detectron2's evaluator scores 0 here, because the category ids are not mapped back
    assert MetadataCatalog.get(dataset).get("thing_dataset_id_to_contiguous_id") is None
    COCOEvaluator(dataset)
    assert MetadataCatalog.get(dataset).thing_dataset_id_to_contiguous_id == {10: 0, 20: 1, 30: 2}


def test_a_data_set_without_annotations_is_refused():
    DatasetCatalog.register("evaluation_unannotated", lambda: [{"file_name": "x.jpg"}])
    try:
        with pytest.raises(ConfigError, match="json_file"):
            COCOEvaluator("evaluation_unannotated")
    finally:
        DatasetCatalog.remove("evaluation_unannotated")
        MetadataCatalog.remove("evaluation_unannotated")


def test_wrong_number_of_classes_and_unknown_task_are_refused(dataset):
    records = DatasetCatalog.get(dataset)
    output = detections_like(records[0], np.random.default_rng(0))
    output.pred_classes[:] = 7
    with pytest.raises(ConfigError, match="num_classes"):
        run(COCOEvaluator(dataset), records[:1], [output])
    with pytest.raises(ConfigError, match="keypoints"):
        COCOEvaluator(dataset, tasks=("keypoints",))


def test_table_says_na_where_there_is_no_value():
    rows = results_table({"AP": 12.25, "AP-ant": 1.0, "AP50-ant": 2.0}, ("ant", "bee")).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[2] == ["all", "12.25", "n/a", "n/a", "n/a", "n/a", "n/a"]
    assert cells[3][:3] == ["ant", "1.00", "2.00"]
    assert cells[4][:3] == ["bee", "n/a", "n/a"]


def test_per_class_ap_on_paper():
    precision = np.full((10, 101, 2, 4, 3), -1.0)
    precision[:, :, 0, 0, -1] = 0.5
    precision[0, :, 0, 0, -1] = 1.0
    values = per_class_ap(precision, ("seen", "absent"))
    assert values["AP-seen"] == pytest.approx(0.55)
    assert values["AP50-seen"] == 1.0
    assert math.isnan(values["AP-absent"])


def _evaluate_half(rank: int, path: str, lvis_path: str, out: str) -> None:
    """One of two ranks: processes every second image and evaluates together, as COCO and as LVIS."""
    import test_lvis_evaluation as lvis
    from detectron2.utils import comm

    torch.set_num_threads(1)
    rendezvous = f"file://{out}.rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    register_coco_instances("evaluation_two_ranks", {}, path, "")
    records = DatasetCatalog.get("evaluation_two_ranks")
    outputs = [detections_like(r, np.random.default_rng(r["image_id"])) for r in records]
    results = [run(COCOEvaluator("evaluation_two_ranks"), records[rank::2], outputs[rank::2])]
    lvis.register_lvis_instances("lvis_two_ranks", lvis_path, "images")
    half = dict(list(lvis.random_outputs(lvis.make_document(0), 0, ties=False).items())[rank::2])
    results.append(lvis.run(lvis.LVISEvaluator("lvis_two_ranks"), half))
    with open(f"{out}.{rank}", "w") as stream:
        json.dump(results, stream)
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(dataset, tmp_path):
    import test_lvis_evaluation as lvis

    records = DatasetCatalog.get(dataset)
    outputs = [detections_like(r, np.random.default_rng(r["image_id"])) for r in records]
    expected = run(COCOEvaluator(dataset), records, outputs)
    document = lvis.make_document(0)
    lvis_path = tmp_path / "lvis.json"
    lvis_path.write_text(json.dumps(document))
    lvis.register_lvis_instances("lvis_one_rank", str(lvis_path), "images")
    lvis_outputs = lvis.random_outputs(document, 0, ties=False)
    lvis_expected = lvis.run(lvis.LVISEvaluator("lvis_one_rank"), lvis_outputs)
    out = str(tmp_path / "rank")
    path = MetadataCatalog.get(dataset).json_file
    torch.multiprocessing.start_processes(
        _evaluate_half, args=(path, str(lvis_path), out), nprocs=2, start_method="fork"
    )
    with open(f"{out}.0") as first, open(f"{out}.1") as second:
        assert json.load(first) == [expected, lvis_expected]
        assert json.load(second) == [{}, {}]
