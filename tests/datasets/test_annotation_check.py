"""Annotation files that are wrong: one message for each fault before training, or a counted, listed drop."""

import json
import math
import re

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from omegaconf import OmegaConf

from densessl.data.datasets import annotation_check
from densessl.data.datasets.annotation_check import check_annotations
from densessl.data.datasets.annotation_faults import decode_counts
from densessl.data.datasets.lvis import register_lvis_instances
from densessl.data.datasets.sample_writer import mask_to_rle
from densessl.engine.checks import check_datasets
from densessl.errors import ConfigError, DataError
from densessl.evaluation.coco_evaluation import COCOEvaluator

HEIGHT, WIDTH = 40, 50


def sound_document(lvis=False):
    """4 images with 3 annotations each (polygons and one RLE), category ids 3 and 7."""
    document = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "ant"}]}
    document["categories"].append({"id": 7, "name": "bee"})
    for image_id in range(1, 5):
        image = {"id": image_id, "height": HEIGHT, "width": WIDTH, "file_name": f"{image_id}.jpg"}
        if lvis:
            image["coco_url"] = f"http://images/val/{image_id}.jpg"
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        document["images"].append(image)
        for k in range(3):
            x = 5.0 * k
            entry = {
                "id": len(document["annotations"]) + 1,
                "image_id": image_id,
                "category_id": (3, 7)[k % 2],
            }
            entry |= {"bbox": [x, 2.0, 12.0, 10.0], "area": 120.0, "iscrowd": 0}
            entry["segmentation"] = [[x, 2.0, x + 12, 2.0, x + 12, 12.0, x, 12.0]]
            document["annotations"].append(entry)
    if lvis:
        for category in document["categories"]:
            category["frequency"] = "r"
    else:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[2:12, 5:17] = True
        document["annotations"][1]["segmentation"] = mask_to_rle(mask)
    return document


@pytest.fixture
def register(tmp_path, request):
    """A function that registers a document (or text) with its image files; returns the data set's name."""
    names = []

    def add(document, lvis=False, files=range(1, 5)):
        name = re.sub(r"\W", "_", f"check_{request.node.name}_{len(names)}")
        path, root = tmp_path / f"{len(names)}.json", tmp_path / "images"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        for number in files:
            place = root / "val" / f"{number}.jpg" if lvis else root / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        if lvis:
            register_lvis_instances(name, str(path), str(root))
        else:
            register_coco_instances(name, {}, str(path), str(root))
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def set_annotation(index, **values):
    return lambda d: d["annotations"][index].update(values)


def rle_of(height, width):
    return mask_to_rle(np.ones((height, width), bool))


# damage, what the message says, how many annotations "drop" leaves of 12
FAULTS = {
    "category": (set_annotation(4, category_id=5), "1 category ids that no.*annotation 5 of image 2.*5", 11),
    "image": (set_annotation(0, image_id=99), "1 image ids that no image has: annotation 1 of image 99", 11),
    "twice": (set_annotation(5, id=2), "1 ids that occur twice: annotation 2 of image 2", 11),
    "float id": (set_annotation(5, image_id=2.5), "no whole numbers or texts.*2.5", 11),
    "list id": (set_annotation(5, category_id=[3]), "no whole numbers or texts", 11),
    "no box": (lambda d: d["annotations"][3].pop("bbox"), "keys missing: annotation 4.*no 'bbox'", 11),
    "no image id": (lambda d: d["annotations"][3].pop("image_id"), "annotation 4: no 'image_id'", 11),
    "no id": (lambda d: d["annotations"][3].pop("id"), "annotation at position 3 of image 2: no 'id'", 11),
    "nan": (set_annotation(1, bbox=[1, 2, math.nan, 4]), "boxes that are not four finite numbers.*nan", 11),
    "three": (set_annotation(1, bbox=[1, 2, 3]), "boxes that are not four finite numbers", 11),
    "text box": (set_annotation(1, bbox=["1", 2, 3, 4]), "boxes that are not four finite numbers", 11),
    "negative": (set_annotation(1, bbox=[9, 9, -4, 4]), "1 boxes without area.*-4", 11),
    "flat": (set_annotation(1, bbox=[9, 9, 4, 0]), "1 boxes without area", 11),
    "outside": (set_annotation(1, bbox=[60, 9, 4, 4]), "1 boxes that leave their image.*50 x 40", 11),
    "touching": (set_annotation(1, bbox=[50, 9, 1, 4]), "1 boxes that leave their image", 11),
    "xyxy": (set_annotation(1, bbox=[30, 20, 45, 38]), "by 25 pixels of an image of 50 x 40", 11),
    "short": (set_annotation(1, segmentation=[[1, 2, 3, 4]]), "polygons with fewer.*4 numbers", 11),
    "odd": (set_annotation(1, segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "an odd count.*7 numbers", 11),
    "inf": (set_annotation(1, segmentation=[[1, 2, 3, 4, 5, math.inf]]), "not finite", 11),
    "flat list": (set_annotation(1, segmentation=[1, 2, 3, 4, 5, 6]), "is a list of numbers", 11),
    "text": (set_annotation(1, segmentation="mask"), "unknown form: annotation 2 of image 1: str", 11),
    "rle size": (set_annotation(1, segmentation=rle_of(WIDTH, HEIGHT)), r"size \[50, 40\].*\[40, 50\]", 11),
    "rle counts": (
        set_annotation(1, segmentation={"size": [HEIGHT, WIDTH], "counts": [7, 3]}),
        "its counts cover 10 of 2000 pixels",
        11,
    ),
    "rle text": (
        set_annotation(1, segmentation={"size": [HEIGHT, WIDTH], "counts": rle_of(9, 9)["counts"]}),
        "its counts cover 81 of 2000 pixels",
        11,
    ),
    "rle damage": (
        set_annotation(1, segmentation={"size": [HEIGHT, WIDTH], "counts": "\x01o"}),
        "counts of the RLE cannot be read",
        11,
    ),
    "image twice": (lambda d: d["images"].append(dict(d["images"][1])), "ids that occur twice: image 2", 12),
    "image size": (
        lambda d: d["images"][0].update(width=0),
        "sizes that are not positive: image 1: 0 x 40",
        9,
    ),
    "image key": (lambda d: d["images"][2].pop("file_name"), "image 3 has no 'file_name'", 9),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named_or_left_out(case, register, tmp_path):
    damage, message, left = FAULTS[case]
    document = sound_document()
    damage(document)
    name = register(document)
    with pytest.raises(DataError, match=f"(?s)data set '{name}' .*{message}.*bad_annotations=drop"):
        check_annotations(name, "raise", str(tmp_path), training=True)
    assert not (tmp_path / "bad_annotations.jsonl").exists()

    assert check_annotations(name, "drop", str(tmp_path), training=True) == ["ant", "bee"]
    records = DatasetCatalog.get(name)
    assert sum(len(record["annotations"]) for record in records) == left
    assert all(record["annotations"] for record in records)
    listed = [json.loads(line) for line in (tmp_path / "bad_annotations.jsonl").read_text().splitlines()]
    images = [line for line in listed if line["entry"].startswith("image ")]
    assert len(listed) - len(images) == 12 - left
    assert all(line["data_set"] == name and line["left_out"] for line in listed)
    COCOEvaluator(name)  # reads the cleaned file
    assert MetadataCatalog.get(name).json_file == str(tmp_path / f"annotations/{name}.json")
    check_annotations(name, "raise", str(tmp_path), training=True)  # which is sound


def test_a_sound_file_passes_unchanged(register, tmp_path):
    document = sound_document()
    document["annotations"][0]["bbox"] = [-1.5, 0, 40, HEIGHT + 1.9]  # clipped by the mapper
    document["annotations"][2]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [100, 50, 1850]}
    document["annotations"][3].pop("segmentation")
    for policy in ("raise", "drop"):
        name = register(document)
        before = MetadataCatalog.get(name).json_file
        assert check_annotations(name, policy, str(tmp_path), training=True) == ["ant", "bee"]
        assert MetadataCatalog.get(name).json_file == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.json", "1.json", "images"]
    assert sum(len(record["annotations"]) for record in DatasetCatalog.get(name)) == 12


def test_few_blemishes_as_in_coco_are_reported_only(register, tmp_path, monkeypatch, caplog):
    document = sound_document()
    document["annotations"][2]["bbox"][3] = 0.0  # as annotation 918 of instances_train2017.json
    monkeypatch.setattr(annotation_check, "TOLERATED_SHARE", 1 / 12)
    name = register(document)
    check_annotations(name, "raise", str(tmp_path), training=True)
    assert "1 boxes without area: annotation 3 of image 1" in caplog.text
    (line,) = (tmp_path / "bad_annotations.jsonl").read_text().splitlines()
    assert json.loads(line)["left_out"] is False
    document["annotations"][3]["bbox"][3] = 0.0
    with pytest.raises(DataError, match="2 boxes without area"):
        check_annotations(register(document), "raise", str(tmp_path), training=True)


def test_minival_of_coco_2014_repeats_annotation_ids(tmp_path, register, monkeypatch):
    document = sound_document()
    document["annotations"][5]["id"] = 2
    monkeypatch.setattr(annotation_check, "TOLERATED_SHARE", 1 / 12)
    name = register(document)
    with pytest.raises(DataError, match="ids that occur twice"):
        check_annotations(name, "raise", str(tmp_path), training=False)
    path = tmp_path / "instances_minival2014.json"
    MetadataCatalog.get(name).__dict__["json_file"] = str(path)
    path.write_text(json.dumps(document))
    check_annotations(name, "raise", str(tmp_path), training=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(sound_document())[:-40], "cannot be read: JSONDecodeError.*cut off"),
        ("", "0 bytes cannot be read"),
        ("[]", "no list 'images'"),
        (json.dumps({"images": [], "annotations": [], "categories": []}), "list 'images' is empty"),
        (json.dumps({**sound_document(), "categories": None}), "no list 'categories'"),
        (json.dumps({**sound_document(), "annotations": {}}), "no list 'annotations'"),
        (json.dumps({**sound_document(), "categories": [{"id": 1}]}), "a 'name'"),
        (
            json.dumps({**sound_document(), "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}),
            "category id 1 occurs 2 times",
        ),
        (json.dumps({**sound_document(), "annotations": []}), "nothing to train on: 4 images, 0 instances"),
    ],
)
@pytest.mark.parametrize("policy", ["raise", "drop"])
def test_files_that_nothing_can_be_left_out_of(text, message, policy, register, tmp_path):
    with pytest.raises(DataError, match=f"(?s){message}"):
        check_annotations(register(text), policy, str(tmp_path), training=True)


def test_an_evaluation_of_which_nothing_is_left(register, tmp_path):
    document = sound_document()
    for image in document["images"]:
        image["width"] = 0
    with pytest.raises(DataError, match="nothing to evaluate on: 0 images, .* Name another data set"):
        check_annotations(register(document), "drop", str(tmp_path), training=False)


def test_crowds_alone_are_nothing_to_train_on_and_fine_to_evaluate(register, tmp_path):
    document = sound_document()
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1
    name = register(document)
    with pytest.raises(DataError, match="0 instances, 12 crowd regions"):
        check_annotations(name, "raise", str(tmp_path), training=True)
    check_annotations(name, "raise", str(tmp_path), training=False)


def test_test_sets_without_annotations_pass(register, tmp_path):
    document = sound_document()
    del document["annotations"]
    name = register(document)
    assert check_annotations(name, "raise", str(tmp_path), training=False) == ["ant", "bee"]


def test_the_truth_of_an_evaluation_needs_areas(register, tmp_path):
    document = sound_document()
    del document["annotations"][1]["area"]
    check_annotations(register(document), "raise", str(tmp_path), training=True)
    with pytest.raises(DataError, match="annotation 2 of image 1: no 'area'"):
        check_annotations(register(document), "raise", str(tmp_path), training=False)


def test_missing_image_files(register, tmp_path):
    name = register(sound_document(), files=(1, 2, 4))
    with pytest.raises(DataError, match=r"(?s)1 image files missing: image 3: .*3\.jpg"):
        check_annotations(name, "raise", str(tmp_path), training=True)
    check_annotations(name, "drop", str(tmp_path), training=True)
    assert [record["image_id"] for record in DatasetCatalog.get(name)] == [1, 2, 4]
    assert "annotations of faulty images" in (tmp_path / "bad_annotations.jsonl").read_text()


@pytest.mark.parametrize(
    ("damage", "message", "training"),
    [
        (set_annotation(1, segmentation=[]), "unknown form.*an empty list", True),
        (set_annotation(1, segmentation=[[1, 2, 3, 4]]), "polygons with fewer", True),
        (set_annotation(1, segmentation=rle_of(HEIGHT, WIDTH)), "unknown form.*dict", True),
        (lambda d: d["images"][0].pop("coco_url"), "image 1 has no 'coco_url'", True),
        (lambda d: d["images"][0].pop("neg_category_ids"), "no 'neg_category_ids'", False),
        (lambda d: d["categories"][0].pop("frequency"), "no 'frequency'", False),
    ],
)
def test_lvis_faults(damage, message, training, register, tmp_path):
    document = sound_document(lvis=True)
    damage(document)
    name = register(document, lvis=True)
    with pytest.raises(DataError, match=f"(?s){message}"):
        check_annotations(name, "raise", str(tmp_path), training=training)
    if training:
        check_annotations(name, "drop", str(tmp_path), training=True)
        assert sum(len(record["annotations"]) for record in DatasetCatalog.get(name)) in (9, 11)


def test_lvis_records(register, tmp_path):
    document = sound_document(lvis=True)
    document["images"][1]["neg_category_ids"] = [7]
    name = register(document, lvis=True)
    assert check_annotations(name, "raise", str(tmp_path), training=False) == ["ant", "bee"]
    records = DatasetCatalog.get(name)
    assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert [a["category_id"] for a in records[1]["annotations"]] == [0, 1, 0]
    assert records[1]["file_name"] == str(tmp_path / "images/val/2.jpg")
    assert records[1]["neg_category_ids"] == [7]
    assert {"annotations", "height", "image_id", "not_exhaustive_category_ids", "width"} <= records[1].keys()
    document["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    with pytest.raises(DataError, match="annotation 1 of image 1 has no valid polygon"):
        DatasetCatalog.get(register(document, lvis=True))


def test_detectron2s_lvis_names_load_without_the_lvis_package():
    from densessl.data.datasets import register_datasets
    from densessl.data.datasets.lvis import load_lvis_json

    register_datasets()
    load = DatasetCatalog["lvis_v1_train"]
    load = getattr(load, "load", load)  # guarded by an earlier test
    assert load.func is load_lvis_json
    assert load.args[0].endswith("lvis/lvis_v1_train.json")


def config(train, test, num_classes, key="roi_heads"):
    model = (
        {"roi_heads": {"num_classes": num_classes}} if key == "roi_heads" else {"num_classes": num_classes}
    )
    loaders = {"train": {"dataset": {"names": train}}, "test": {"dataset": {"names": test}}}
    return OmegaConf.create({"model": model, "dataloader": loaders})


def test_the_classes_of_model_and_data_must_agree(register):
    train, test = register(sound_document()), register(sound_document())
    check_datasets(config(train, test, 2), ("train", "test"))
    for key in ("roi_heads", "model"):
        with pytest.raises(ConfigError, match=rf"num_classes=80, but data set '{train}' has 2 .*ant, bee"):
            check_datasets(config(train, test, 80, key), ("train", "test"))
    renamed = sound_document()
    renamed["categories"][1]["name"] = "wasp"
    with pytest.raises(DataError, match="do not have the same classes.*'bee' and 'wasp'"):
        check_datasets(config(train, register(renamed), 2), ("train", "test"))


def test_the_policy_of_the_config_is_used(register, tmp_path):
    document = sound_document()
    document["annotations"][0]["bbox"] = [0, 0, 500, 500]
    name = register(document)
    cfg = config(name, name, 2)
    cfg.train = {"output_dir": str(tmp_path / "run")}
    with pytest.raises(DataError, match="boxes that leave their image"):
        check_datasets(cfg, ("train",))
    cfg.train.bad_annotations = "drop"
    check_datasets(cfg, ("train",))
    lines = (tmp_path / "run/bad_annotations.jsonl").read_text()
    assert lines.count("\n") == 1
    MetadataCatalog.get(name).__dict__["json_file"] = str(tmp_path / "0.json")  # as when the run is resumed
    check_datasets(cfg, ("train", "test"))
    assert (tmp_path / "run/bad_annotations.jsonl").read_text() == lines
    assert MetadataCatalog.get(name).json_file == str(tmp_path / f"run/annotations/{name}.json")


def test_run_lengths_of_compressed_masks():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 0.98, 1.0):
        for scale in (1, 30):
            mask = np.kron(rng.random((9, 13)) < density, np.ones((scale, 5))).astype(np.uint8)
            flat = mask.ravel(order="F").astype(int)
            edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
            expected = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
            rle = mask_util.encode(np.asfortranarray(mask))
            assert decode_counts(rle["counts"].decode()) == expected
    assert decode_counts("") == []
    for damaged in ("\x01", "o", "oooooooooooooo0", "é"):
        with pytest.raises(ValueError, match="."):
            decode_counts(damaged)
