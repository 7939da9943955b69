"""VOC's, Cityscapes' and the keypoint evaluators on the tiles and instances of the `coral` sample."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_NAMES, _get_builtin_metadata
from detectron2.data.datasets.pascal_voc import register_pascal_voc
from detectron2.structures import Boxes, Instances
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
import test_cityscapes_evaluation as cityscapes
from builders import fake_sdist, load_script
from format_builders import VOC_OBJECT

from densessl.data.datasets.sample_writer import build_atomically, segmentation_to_mask, sha256_of
from densessl.evaluation.coco_evaluation import COCOEvaluator
from densessl.evaluation.voc_evaluation import PascalVOCDetectionEvaluator


@pytest.fixture(scope="module")
def coral(tmp_path_factory):
    """(folder of the held-out tiles, their COCO records, {image id: instances that are no crowd})."""
    root = tmp_path_factory.mktemp("coral")
    sdist = fake_sdist(root / "sdist.tar.gz")
    script = load_script("prepare_coral")
    build_atomically(root / "coral", lambda folder: script.build(folder, 80, sdist, sha256_of(sdist)))
    document = json.loads((root / "coral/annotations/instances_val.json").read_text())
    instances = {
        image["id"]: [a for a in document["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        for image in document["images"]
    }
    images = [image for image in document["images"] if instances[image["id"]]]
    assert images
    return root / "coral/images/val", images, instances


@pytest.fixture
def name():
    """A name that is free before and after a test."""
    yield "coral_in_another_format"
    DatasetCatalog.remove("coral_in_another_format")
    MetadataCatalog.remove("coral_in_another_format")


def whole_box(box: list[float]) -> tuple[int, int, int, int]:
    """VOC's corners, pixels counted from 1, of a COCO box."""
    x, y, width, height = box
    return round(x) + 1, round(y) + 1, round(x + width), round(y + height)


@pytest.mark.parametrize(("shift", "perfect"), [(0.0, True), (6.0, False)])
def test_voc(coral, name, tmp_path, shift, perfect):
    folder, images, instances = coral
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("\n".join(f"{i['id']:06d}" for i in images))
    found = sorted({a["category_id"] for image in images for a in instances[image["id"]]})
    for image in images:
        text = "".join(
            VOC_OBJECT.format(*whole_box(a["bbox"]), name=f"coral{a['category_id']}")
            for a in instances[image["id"]]
        )
        size = (
            f"<size><width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>"
        )
        stem = f"{image['id']:06d}"
        (tmp_path / f"Annotations/{stem}.xml").write_text(f"<annotation>{size}{text}</annotation>")
        Image.open(folder / image["file_name"]).save(tmp_path / f"JPEGImages/{stem}.jpg")
    register_pascal_voc(name, str(tmp_path), "test", 2012, tuple(f"coral{c}" for c in found))
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        out = Instances((record["height"], record["width"]))
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]], dtype=torch.float32)
        out.pred_boxes = Boxes(boxes + torch.tensor([shift, 0.0, shift, 0.0]))
        out.scores = torch.ones(len(boxes))
        out.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": out}])
    result = evaluator.evaluate()["bbox"]
    assert (result["AP"] == pytest.approx(100.0)) == perfect
    assert result["AP"] > 0


@pytest.mark.parametrize(("shift", "perfect"), [(0, True), (6, False)])
def test_cityscapes(coral, name, tmp_path, shift, perfect):
    folder, images, instances = coral
    pictures, truth = tmp_path / "leftImg8bit/val/reef", tmp_path / "gtFine/val/reef"
    pictures.mkdir(parents=True)
    truth.mkdir(parents=True)
    for image in images:
        stem, height, width = f"reef_{image['id']:06d}_000019", image["height"], image["width"]
        ids = np.zeros((height, width), np.uint16)
        for number, annotation in enumerate(instances[image["id"]]):
            mask = segmentation_to_mask(annotation["segmentation"], height, width)
            ids[mask] = 1000 * cityscapes.LABELS[annotation["category_id"] - 1] + number
        Image.fromarray(ids).save(truth / f"{stem}_gtFine_instanceIds.png")
        Image.fromarray((ids // 1000).astype(np.uint8)).save(truth / f"{stem}_gtFine_labelIds.png")
        document = {"imgHeight": height, "imgWidth": width, "objects": []}
        (truth / f"{stem}_gtFine_polygons.json").write_text(json.dumps(document))
        Image.open(folder / image["file_name"]).save(pictures / f"{stem}_leftImg8bit.png")
    cityscapes.register(tmp_path, name)
    pairs = cityscapes.shifted(cityscapes.truth_of(name), shift)
    result = cityscapes.evaluate(name, pairs)["segm"]
    assert (result["AP"] == pytest.approx(100.0)) == perfect
    assert result["AP"] > 0


@pytest.mark.parametrize(("shift", "perfect"), [(0.0, True), (2.0, False)])
def test_keypoints(coral, name, tmp_path, shift, perfect):
    """17 points of each instance's outline, in turn, as the keypoints of a person."""
    folder, images, instances = coral
    category = {"id": 1, "name": "person", "keypoints": list(COCO_PERSON_KEYPOINT_NAMES), "skeleton": []}
    document = {"info": {}, "licenses": [], "images": images, "annotations": [], "categories": [category]}
    for image in images:
        for annotation in instances[image["id"]]:
            mask = segmentation_to_mask(annotation["segmentation"], image["height"], image["width"])
            rows, columns = np.nonzero(mask)
            chosen = np.linspace(0, len(rows) - 1, 17).astype(int)
            points = np.column_stack([columns[chosen], rows[chosen], np.full(17, 2)])
            person = {
                **annotation,
                "category_id": 1,
                "num_keypoints": 17,
                "keypoints": points.ravel().tolist(),
            }
            document["annotations"].append(person)
    path = tmp_path / "persons.json"
    path.write_text(json.dumps(document))
    register_coco_instances(name, _get_builtin_metadata("coco_person"), str(path), str(folder))
    evaluator = COCOEvaluator(name, tasks=("keypoints",))
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        points = torch.tensor([a["keypoints"] for a in record["annotations"]]).reshape(-1, 17, 3).float()
        out = Instances((record["height"], record["width"]))
        out.pred_keypoints = points + torch.tensor([shift, 0.0, 0.0])
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]], dtype=torch.float32)
        out.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        out.scores = torch.linspace(1.0, 0.5, len(points))
        out.pred_classes = torch.zeros(len(points), dtype=torch.int64)
        evaluator.process([record], [{"instances": out}])
    result = evaluator.evaluate()["keypoints"]
    assert (result["AP"] == pytest.approx(100.0)) == perfect
    assert result["AP"] > 0
