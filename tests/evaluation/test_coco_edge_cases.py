"""AP against pycocotools itself, digit for digit, where implementations may differ: ties, limits, crowds."""

import contextlib
import copy
import io
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densessl.evaluation.coco_evaluation import METRICS, COCOEvaluator

HEIGHT, WIDTH = 130, 170
CATEGORIES = (1, 4, 9, 11)  # the last one is never annotated


def rle_of_box(box):
    """Compressed RLE, as text, of the pixels whose centres lie in a box."""
    x, y, w, h = box
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    mask = (columns >= x) & (columns < x + w) & (rows >= y) & (rows < y + h)
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def truth(number, image_id, category, box, **extra):
    entry = {"id": number, "image_id": image_id, "category_id": category, "bbox": box, "iscrowd": 0}
    return {**entry, "segmentation": rle_of_box(box), "area": box[2] * box[3], **extra}


def detection(image_id, category, box, score):
    entry = {"image_id": image_id, "category_id": CATEGORIES.index(category), "bbox": box, "score": score}
    return {**entry, "segmentation": rle_of_box(box)}


def random_box(rng):
    """Sides that give areas of exactly 32^2 and 96^2, the borders of the size ranges, and others."""
    w, h = rng.choice([8, 16, 32, 64, 96, 120, 23.5, 70.25], 2)
    return [float(v) for v in (*(rng.uniform(0, (WIDTH - w, max(HEIGHT - h, 0.1)))), w, h)]


def random_case(seed, *, per_image=12, ties=False, crowds=False, doubles=False):
    """Truth and detections of 8 images; some without truth, some without detections."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image_id in range(1, 9):
        for _ in range(0 if image_id == 3 else int(rng.integers(1, 6))):
            box, category = random_box(rng), int(rng.choice(CATEGORIES[:3]))
            crowd = int(crowds and rng.random() < 0.4)
            annotations.append(truth(len(annotations) + 1, image_id, category, box, iscrowd=crowd))
            if doubles:  # two truths of the same overlap with every detection
                annotations.append(truth(len(annotations) + 1, image_id, category, list(box)))
            for _ in range(int(rng.integers(0, 4))):
                shifted = [float(v) for v in np.array(box) + rng.choice([0, 0, 1, 2, 4, -3], 4)]
                shifted[2:] = [max(v, 1.0) for v in shifted[2:]]
                wrong = rng.random() < 0.1
                chosen = int(rng.choice(CATEGORIES)) if wrong else category
                detections.append(detection(image_id, chosen, shifted, float(rng.random())))
        for _ in range(0 if image_id == 5 else int(rng.integers(0, per_image))):
            chosen = int(rng.choice(CATEGORIES))
            detections.append(detection(image_id, chosen, random_box(rng), float(rng.random() * 0.8)))
    if ties:
        for entry in detections:
            entry["score"] = round(entry["score"], 1)
    return annotations, [detections[i] for i in rng.permutation(len(detections))]


def edge_cases():
    """One image each, from plain to pathological."""
    box, other = [10.0, 10.0, 32.0, 32.0], [60.0, 60.0, 96.0, 64.0]
    found = detection(1, 1, box, 0.5)
    flat = detection(1, 1, [20.0, 20.0, 0.0, 30.0], 0.9)
    wide = [float(v) for v in (100, 20, 20, 40)]
    crowd = truth(1, 1, 1, [0.0, 0.0, 160.0, 120.0], iscrowd=1)
    many = [detection(1, 1, [0.5 * k, 60.0, 20.0, 20.0], 0.9 - 1e-4 * k) for k in range(100)]
    return {
        "exact": ([truth(1, 1, 1, box)], [found]),
        "no truth of the class": ([truth(1, 1, 1, box)], [found, detection(1, 11, other, 0.9)]),
        "detection in an image without truth": ([truth(1, 1, 1, box)], [found, detection(2, 1, box, 0.9)]),
        "the 101st detection": ([truth(1, 1, 1, box)], [*many, found]),
        "the 100th detection": ([truth(1, 1, 1, box)], [*many[1:], found]),
        "without area": ([truth(1, 1, 1, box)], [flat, found]),
        "crowd alone": ([crowd], [found, detection(1, 1, other, 0.9)]),
        "crowd takes many": (
            [crowd, truth(2, 1, 1, [120.0, 90.0, 20.0, 20.0])],
            [found, detection(1, 1, other, 0.9), detection(1, 1, [120.0, 90.0, 20.0, 20.0], 0.1)],
        ),
        "one truth, two detections, one score": ([truth(1, 1, 1, box)], [found, {**found}]),
        "area at the border": (
            [truth(1, 1, 1, box), truth(2, 1, 1, [60.0, 20.0, 96.0, 96.0])],
            [found, detection(1, 1, [60.0, 20.0, 96.0, 96.0], 0.4)],
        ),
        "area of the file, not of the box": (
            [truth(1, 1, 1, box, area=1025.0), truth(2, 1, 1, wide, area=1024.0)],
            [found, detection(1, 1, wide, 0.4)],
        ),
        "overlap of exactly a half": (
            [truth(1, 1, 1, box)],
            [detection(1, 1, [10.0, 10.0, 32.0, 16.0], 0.5)],
        ),
        "annotation with id 0": ([truth(0, 1, 1, box), truth(1, 1, 4, other)], [found]),
    }


@pytest.fixture
def register(tmp_path, request):
    names = []

    def add(annotations):
        images = [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(1, 9)]
        categories = [{"id": c, "name": f"class{c}"} for c in CATEGORIES]
        path = tmp_path / f"{len(names)}.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        names.append(f"coco_edge_{request.node.name}_{len(names)}")
        register_coco_instances(names[-1], {}, str(path), "")
        return names[-1], str(path)

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def own_results(name, detections, tasks, limit):
    evaluator = COCOEvaluator(name, tasks=tasks, max_dets_per_image=limit)
    evaluator.reset()
    for image_id in range(1, 9):
        instances = [copy.deepcopy(d) for d in detections if d["image_id"] == image_id]
        evaluator._predictions.append({"image_id": image_id, "instances": instances})
    return evaluator.evaluate()


def oracle_results(path, detections, task, limit):
    """pycocotools: the six metrics and each class's, in percent; without those that it marks by -1."""
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(path)
        entries = [{**d, "category_id": CATEGORIES[d["category_id"]]} for d in detections]
        if task == "segm":  # the size of a mask is the mask's
            entries = [{k: v for k, v in entry.items() if k != "bbox"} for entry in entries]
        evaluation = COCOeval(api, api.loadRes(entries), task)
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    every = slice(None)
    chosen = [
        (every, every, 0),
        ([0], every, 0),
        ([5], every, 0),
        *((every, every, area) for area in (1, 2, 3)),
    ]
    rows = dict(zip(METRICS, chosen))
    for index, category in enumerate(CATEGORIES):
        rows[f"AP-class{category}"] = (every, [index], 0)
        rows[f"AP50-class{category}"] = ([0], [index], 0)
    values = {}
    for metric, (thresholds, classes, area) in rows.items():
        part = precision[thresholds][:, :, classes, area, -1]
        if (part > -1).any():
            values[metric] = 100 * float(part[part > -1].mean())
    return values


def check(register, annotations, detections, limit=100):
    name, path = register(annotations)
    own = own_results(name, detections, ("bbox", "segm"), limit)
    for task in ("bbox", "segm"):
        expected = oracle_results(path, detections, task, limit)
        assert set(own[task]) == set(expected)
        for metric, value in own[task].items():
            assert value == pytest.approx(expected[metric], rel=1e-13, abs=1e-13), (task, metric)
    return own


@pytest.mark.parametrize("case", edge_cases())
def test_edge_cases(case, register):
    check(register, *edge_cases()[case])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ties": True},
        {"crowds": True},
        {"ties": True, "crowds": True, "doubles": True},
        {"per_image": 500, "ties": True},
    ],
    ids=str,
)
def test_random_cases(options, register):
    seed = 7 + sum(map(len, options))
    results = check(register, *random_case(seed, **options))
    assert 1 < results["bbox"]["AP"] < 99  # the comparison says something


def test_other_limits(register):
    annotations, detections = random_case(2, per_image=80)
    few = check(register, annotations, detections, limit=12)
    more = check(register, annotations, detections, limit=300)
    assert few["bbox"]["AP"] != more["bbox"]["AP"]
