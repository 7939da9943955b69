"""LVIS evaluation against a slow direct implementation of its definition, and its edge cases."""

import json
import math
from collections import defaultdict

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from densessl.data.datasets.lvis import register_lvis_instances
from densessl.errors import ConfigError, DataError
from densessl.evaluation.lvis_evaluation import METRICS, LVISEvaluator

SIZE = 120
FREQUENCY = "rrccffrcf"  # of classes 1 to 9; the tests leave class 9 without annotations


def rectangle(rng):
    """A random (x0, y0, x1, y1) inside the image; sides cover LVIS's three size ranges."""
    side = rng.choice([8, 30, 50, 100], 2) * rng.uniform(0.8, 1.15, 2)
    low = rng.uniform(0, SIZE - side)
    return [float(v) for v in (*low, *(low + side))]


def make_document(seed):
    """14 images, 9 classes: some images without annotations, classes absent, unknown or not exhaustive."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for image_id in range(10, 24):
        present = [] if image_id % 5 == 0 else [int(c) for c in rng.choice(np.arange(1, 9), 3, replace=False)]
        others = [c for c in range(1, 10) if c not in present]
        image = {"id": image_id, "width": SIZE, "height": SIZE, "coco_url": f"http://x/val/{image_id}.jpg"}
        image["neg_category_ids"] = [int(c) for c in rng.choice(others, 3, replace=False)]
        image["not_exhaustive_category_ids"] = present[:1] if rng.random() < 0.5 else []
        images.append(image)
        for category in present:
            annotations += [(image_id, category, rectangle(rng)) for _ in range(int(rng.integers(1, 4)))]
    return {
        "images": images,
        "annotations": [
            annotation(n, image_id, category, box)
            for n, (image_id, category, box) in enumerate(annotations, 1)
        ],
        "categories": [{"id": c, "name": f"class{c}", "frequency": f} for c, f in enumerate(FREQUENCY, 1)],
    }


def annotation(number, image_id, category, box):
    x0, y0, x1, y1 = box
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
    }


def to_instances(detections):
    """detectron2's output of an image from (box, category id, score)."""
    boxes = np.array([box for box, _, _ in detections], np.float32).reshape(-1, 4)
    masks = np.zeros((len(boxes), SIZE, SIZE), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.round().astype(int)):
        mask[max(y0, 0) : y1, max(x0, 0) : x1] = True
    out = Instances((SIZE, SIZE))
    out.pred_boxes = Boxes(torch.tensor(boxes))
    out.pred_classes = torch.tensor([category - 1 for _, category, _ in detections], dtype=torch.int64)
    out.scores = torch.tensor([score for _, _, score in detections], dtype=torch.float32)
    out.pred_masks = torch.tensor(masks)
    return out


def random_outputs(document, seed, ties, count=25):
    """Per image id: shifted truth, wrong classes, inventions (some without area)."""
    rng = np.random.default_rng(seed)
    by_image = defaultdict(list)
    for item in document["annotations"]:
        x, y, w, h = item["bbox"]
        category = item["category_id"] if rng.random() < 0.85 else int(rng.integers(1, 10))
        box = np.array([x, y, x + w, y + h]) + rng.normal(0, 3, 4)
        by_image[item["image_id"]] += [(box, category, rng.random()) for _ in range(int(rng.integers(0, 3)))]
    outputs = {}
    for image in document["images"]:
        found = by_image[image["id"]]
        for _ in range(int(rng.integers(0, count))):
            box = rectangle(rng)
            if rng.random() < 0.1:
                box[2] = box[0]
            found.append((box, int(rng.integers(1, 10)), rng.random() * 0.7))
        if ties:
            found = [(box, category, round(score, 1)) for box, category, score in found]
        outputs[image["id"]] = to_instances([found[i] for i in rng.permutation(len(found))])
    return outputs


def slow_lvis(document, detections, task, limit=300):
    """The nine metrics by the definition, one class, threshold and size range at a time."""
    images = {image["id"]: image for image in document["images"]}
    truth, found = defaultdict(list), defaultdict(list)
    present = defaultdict(set)
    for item in document["annotations"]:
        truth[item["image_id"], item["category_id"]].append(item)
        present[item["image_id"]].add(item["category_id"])
    for image_id, image in images.items():
        best = sorted((d for d in detections if d["image_id"] == image_id), key=lambda d: -d["score"])[:limit]
        for item in best:
            known = item["category_id"] in present[image_id] | set(image["neg_category_ids"])
            if known and area_of(item, task) > 0:
                found[image_id, item["category_id"]].append(item)
    ranges = {"all": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}
    curves = {}
    for category in document["categories"]:
        for name, area_range in ranges.items():
            for t in range(10):
                ranked, positives = [], 0
                for image_id in sorted(images):
                    key = (image_id, category["id"])
                    open_class = category["id"] in images[image_id]["not_exhaustive_category_ids"]
                    outcome, number = match(
                        truth[key], found[key], task, 0.5 + 0.05 * t, area_range, open_class
                    )
                    ranked += outcome
                    positives += number
                if positives:
                    curves[category["id"], name, t] = interpolated(ranked, positives)
    frequency = {c["id"]: c["frequency"] for c in document["categories"]}

    def mean(name="all", thresholds=range(10), group="rcf"):
        rows = [
            v
            for (c, size, t), v in curves.items()
            if size == name and t in thresholds and frequency[c] in group
        ]
        return 100 * float(np.mean(rows)) if rows else math.nan

    values = [mean(), mean(thresholds=[0]), mean(thresholds=[5]), mean("s"), mean("m"), mean("l")]
    return dict(zip(METRICS, [*values, mean(group="r"), mean(group="c"), mean(group="f")]))


def area_of(detection, task):
    if task == "bbox":
        return detection["bbox"][2] * detection["bbox"][3]
    return int(mask_util.decode(detection["segmentation"]).sum())


def overlap(detection, item, task):
    if task == "bbox":
        (ax, ay, aw, ah), (bx, by, bw, bh) = detection["bbox"], item["bbox"]
        w = min(ax + aw, bx + bw) - max(ax, bx)
        h = min(ay + ah, by + bh) - max(ay, by)
        inside = max(w, 0.0) * max(h, 0.0)
        return inside / (aw * ah + bw * bh - inside)
    a = mask_util.decode(detection["segmentation"]).astype(bool)
    b = mask_util.decode(mask_util.frPyObjects(item["segmentation"], SIZE, SIZE))[..., 0].astype(bool)
    return (a & b).sum() / (a | b).sum()


def match(truth, found, task, threshold, area_range, open_class):
    """([(score, is true positive)], number of counted truths): each detection takes the best free truth.

    Truths out of the size range are taken only where no counted one fits, and then nothing is counted; of
    equal overlaps the later truth is taken, as in COCO.
    """
    counted = [area_range[0] <= item["area"] <= area_range[1] for item in truth]
    order = sorted(range(len(truth)), key=lambda i: not counted[i])
    taken, outcome = set(), []
    for detection in sorted(found, key=lambda d: -d["score"]):
        chosen = None
        for wanted in (True, False):
            best = threshold
            for i in order:
                value = overlap(detection, truth[i], task) if counted[i] == wanted and i not in taken else -1
                if value >= best:
                    best, chosen = value, i
            if chosen is not None:
                break
        if chosen is not None:
            taken.add(chosen)
            if counted[chosen]:
                outcome.append((detection["score"], True))
        elif not open_class and area_range[0] <= area_of(detection, task) <= area_range[1]:
            outcome.append((detection["score"], False))
    return outcome, sum(counted)


def interpolated(ranked, positives):
    """Mean over the 101 recalls of the best precision at that recall or beyond."""
    hits = np.cumsum([hit for _, hit in sorted(ranked, key=lambda pair: -pair[0])])
    precision = [hit / (n + 1) for n, hit in enumerate(hits)]
    recall = [hit / positives for hit in hits]
    values = []
    for wanted in np.linspace(0, 1, 101):
        reached = [p for p, r in zip(precision, recall) if r >= wanted]
        values.append(max(reached, default=0.0))
    return float(np.mean(values))


@pytest.fixture
def register(tmp_path, request):
    """A function that registers a document as a data set and returns its name."""
    names = []

    def add(document):
        name = f"lvis_{request.node.name}_{len(names)}"
        path = tmp_path / f"{name.replace('/', '_')}.json"
        path.write_text(json.dumps(document))
        register_lvis_instances(name, str(path), "images")
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def run(evaluator, outputs):
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([{"image_id": image_id}], [{"instances": output}])
    return evaluator.evaluate()


def evaluate(register, tmp_path, document, outputs, **kwargs):
    """Results, and the detections as the evaluator wrote them."""
    folder = str(tmp_path / "out")
    results = run(LVISEvaluator(register(document), output_dir=folder, **kwargs), outputs)
    return results, json.loads((tmp_path / "out/coco_instances_results.json").read_text())


def check(results, document, detections, limit=300):
    for task in ("bbox", "segm"):
        expected = slow_lvis(document, detections, task, limit)
        assert {k for k, v in expected.items() if not math.isnan(v)} == set(results[task])
        for name, value in results[task].items():
            assert type(value) is float
            assert value == pytest.approx(expected[name], abs=1e-11), (task, name)


@pytest.mark.parametrize(("seed", "ties"), [(0, False), (1, True), (2, True)])
def test_equals_the_definition_to_every_digit(register, tmp_path, seed, ties):
    document = make_document(seed)
    results, detections = evaluate(register, tmp_path, document, random_outputs(document, seed, ties))
    assert set(results["bbox"]) == set(METRICS)
    assert 5 < results["bbox"]["AP"] < 95  # the comparison says something
    check(results, document, detections)


def test_the_limit_counts_all_classes_of_an_image_together(register, tmp_path):
    document = make_document(3)
    outputs = random_outputs(document, 3, ties=True, count=60)
    results, detections = evaluate(register, tmp_path, document, outputs, max_dets_per_image=10)
    check(results, document, detections, limit=10)
    more = run(LVISEvaluator(register(document)), outputs)
    assert more["bbox"]["AP"] != results["bbox"]["AP"]


def one_image(negative=(), not_exhaustive=()):
    """One image with one object of class 1; class 3 is annotated in a second image."""
    document = make_document(0)
    document["images"] = document["images"][:2]
    box = [10.0, 10.0, 60.0, 60.0]
    document["annotations"] = [annotation(1, 10, 1, box), annotation(2, 11, 3, box)]
    for image in document["images"]:
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [], []
    document["images"][0]["neg_category_ids"] = list(negative)
    document["images"][0]["not_exhaustive_category_ids"] = list(not_exhaustive)
    return document, box


ELSEWHERE = [70.0, 70.0, 110.0, 110.0]


@pytest.mark.parametrize(
    ("case", "expected"),
    [("unknown", 100.0), ("negative", 50.0), ("exhaustive", 50.0), ("open", 100.0)],
)
def test_federated_annotations_on_paper(register, tmp_path, case, expected):
    """A false positive above the true one halves the precision, where the class is known in the image."""
    if case in ("unknown", "negative"):  # class 3 in the image that does not show it
        document, box = one_image(negative=[3] if case == "negative" else [])
        outputs = {10: to_instances([(ELSEWHERE, 3, 0.9)]), 11: to_instances([(box, 3, 0.5)])}
        document["annotations"] = document["annotations"][1:]
    else:  # a second object of a class that is annotated, completely or not
        document, box = one_image(not_exhaustive=[1] if case == "open" else [])
        outputs = {10: to_instances([(ELSEWHERE, 1, 0.9), (box, 1, 0.5)])}
        document["annotations"] = document["annotations"][:1]
    results, detections = evaluate(register, tmp_path, document, outputs)
    assert results["bbox"]["AP"] == pytest.approx(expected)
    assert results["segm"]["AP50"] == pytest.approx(expected)
    check(results, document, detections)


def test_detections_that_do_not_count_use_up_the_limit(register, tmp_path):
    document, box = one_image()
    crowd = [(ELSEWHERE, 5, 0.9)] * 300  # a class of which nothing is known here
    outputs = {10: to_instances([*crowd, (box, 1, 0.5)]), 11: to_instances([(box, 3, 0.5)])}
    results, detections = evaluate(register, tmp_path, document, outputs)
    check(results, document, detections)
    assert results["bbox"]["APr"] == 0.0  # class 1: its detection was the 301st
    assert results["bbox"]["APc"] == pytest.approx(100.0)
    outputs[10] = to_instances([*crowd[1:], (box, 1, 0.5)])
    assert run(LVISEvaluator(register(document)), outputs)["bbox"]["APr"] == pytest.approx(100.0)


def test_classes_without_truth_and_detections_without_area(register, tmp_path):
    document, box = one_image(negative=[9])
    line = [20.0, 20.0, 20.0, 50.0]
    outputs = {10: to_instances([(line, 1, 0.9), (box, 1, 0.5), (box, 9, 0.8)])}
    results, detections = evaluate(register, tmp_path, document, outputs)
    assert results["bbox"]["APr"] == pytest.approx(100.0)  # the line does not count
    assert results["bbox"]["APc"] == 0.0
    assert "APf" not in results["bbox"]  # no frequent class has truth
    assert "APs" not in results["bbox"]
    check(results, document, detections)


def test_an_annotation_with_id_zero_is_matched(register, tmp_path):
    document, box = one_image()
    document["annotations"] = [annotation(0, 10, 1, box)]
    results, _ = evaluate(register, tmp_path, document, {10: to_instances([(box, 1, 0.5)])})
    assert results["bbox"]["AP"] == pytest.approx(100.0)


def test_no_predictions_leave_metrics_out(register):
    document = make_document(0)
    nothing = {image["id"]: to_instances([]) for image in document["images"]}
    name = register(document)
    assert run(LVISEvaluator(name, tasks=("bbox", "segm")), nothing) == {"bbox": {}, "segm": {}}
    assert run(LVISEvaluator(name), {}) == {}


def test_a_test_set_is_written_and_not_scored(register, tmp_path):
    document = make_document(0)
    outputs = random_outputs(document, 0, ties=False)
    document["annotations"] = []
    for image in document["images"]:
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    results, detections = evaluate(register, tmp_path, document, outputs)
    assert results == {}
    assert len(detections) == sum(len(output) for output in outputs.values())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d["images"][3].pop("neg_category_ids"), "no 'neg_category_ids' .first: id 13"),
        (lambda d: d["images"][0].pop("not_exhaustive_category_ids"), "no 'not_exhaustive_category_ids'"),
        (lambda d: d["categories"][4].pop("frequency"), "no 'frequency' of r, c, f .first: id 5"),
        (lambda d: d["annotations"][2].update(iscrowd=1), "'iscrowd' or 'ignore'.*first: id 3"),
    ],
)
def test_files_that_are_not_lvis_are_refused(register, damage, message):
    document = make_document(0)
    damage(document)
    with pytest.raises(DataError, match=message):
        LVISEvaluator(register(document))


def test_unknown_tasks_and_classes_are_refused(register):
    name = register(make_document(0))
    with pytest.raises(ConfigError, match="keypoints"):
        LVISEvaluator(name, tasks=("keypoints",))
    with pytest.raises(ConfigError, match="num_classes"):
        run(LVISEvaluator(name), {10: to_instances([(ELSEWHERE, 33, 0.5)])})
