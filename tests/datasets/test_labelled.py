"""Labelled folder trees, lists of them, and VOC's class files: numbers, order, and one message per "
"mistake."""

import os

import numpy as np
import pytest
from builders import load_script
from PIL import Image
from torchvision.datasets import ImageFolder

from densessl.data.datasets.labelled import ReferenceAndQuery, build_labelled_source
from densessl.data.datasets.voc_classification import load_voc_labels
from densessl.errors import DataError

CLASSES = ("n02", "n01", "n10")


def write_tree(root, classes=CLASSES, count=3):
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8)).save(root / name / f"{name}_{number}.JPEG", "JPEG")
    return root


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "train")


def test_numbers_and_order_are_those_of_torchvision(tree):
    source = build_labelled_source(str(tree), num_classes=3)
    reference = ImageFolder(str(tree))
    assert source.classes == reference.classes == ["n01", "n02", "n10"]
    records = [source[index] for index in range(len(source))]
    assert [(r["file_name"], r["label"]) for r in records] == reference.samples
    assert records[3]["image_id"] == "n02/n02_0.JPEG"


def test_validation_set_takes_the_training_classes(tree, tmp_path):
    val = write_tree(tmp_path / "val", ["n10"])  # alone it would be class 0
    source = build_labelled_source(str(val), classes=str(tree))
    assert [source[i]["label"] for i in range(len(source))] == [2, 2, 2]
    write_tree(val, ["n99"])
    with pytest.raises(DataError, match="class 'n99' is not among the 3 classes"):
        build_labelled_source(str(val), classes=str(tree))


def test_lists_in_the_forms_in_use(tree, tmp_path):
    forms = {
        "paths": "n10/n10_0.JPEG\nn01/n01_2.JPEG\n",  # mmselfsup meta/train.txt without the number
        "labelled": "n10/n10_0.JPEG 2\nn01/n01_2.JPEG 0\n",  # OpenSelfSup
        "simclr": "# a comment\nn10_0.JPEG\n\nn01_2.JPEG\n",
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        source = build_labelled_source(str(tree), list_file=str(tmp_path / name))
        assert [(os.path.basename(source[i]["file_name"]), source[i]["label"]) for i in range(2)] == [
            ("n10_0.JPEG", 2),
            ("n01_2.JPEG", 0),
        ]
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "ILSVRC_1.JPEG", "JPEG")
    (tmp_path / "val.txt").write_text("ILSVRC_1.JPEG 1\n")
    source = build_labelled_source(str(tmp_path / "flat"), str(tree), str(tmp_path / "val.txt"))
    assert source[0]["label"] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("n10/n10_0.JPEG 1", r"line 1: class number 1 after .*whose class is number 2"),
        ("n10/n10_9.JPEG", "1 of 1 files looked for .* are not in"),
        ("n99/x.JPEG", "'n99' is not a class folder"),
        ("n99/x.JPEG 1", "'n99' is not a class folder"),
        ("x.JPEG", "neither a class folder .* nor a class number"),
        ("x.JPEG 3", "class number 3, and there are 3 classes"),
        ("# nothing", "is empty"),
    ],
)
def test_bad_lines_are_named(tree, tmp_path, line, message):
    (tmp_path / "list.txt").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        build_labelled_source(str(tree), list_file=str(tmp_path / "list.txt"))


def test_bad_trees_are_named(tree, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="has 3 class folders .* set model.num_classes=3"):
        build_labelled_source(str(tree), num_classes=1000)
    with pytest.raises(DataError, match="has 1 folder.*one for each of two classes"):
        build_labelled_source(str(tmp_path))
    with pytest.raises(DataError, match="cannot read the class folders of .*nowhere"):
        build_labelled_source(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="cannot read the image list"):
        build_labelled_source(str(tree), list_file=str(tmp_path / "nowhere.txt"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DataError, match="imagenet/train.*DETECTRON2_DATASETS"):
        build_labelled_source("imagenet_1k_val")
    (tree / "stray.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="stray.jpg lies outside the class folders"):
        build_labelled_source(str(tree))
    (tree / "stray.jpg").unlink()
    (tree / "n50").mkdir()
    with pytest.raises(DataError, match="1 class folder.* without an image, e.g. 'n50'"):
        build_labelled_source(str(tree))


def test_registered_names_and_digest(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_tree(tmp_path / "imagenet" / "train")
    write_tree(tmp_path / "imagenet" / "val", ["n01", "n10"], count=1)
    (tmp_path / "imagenet" / "meta").mkdir()
    (tmp_path / "imagenet" / "meta" / "train_1pct.txt").write_text("n02_1.JPEG\n")
    train, val, few = (build_labelled_source(f"imagenet_1k_{n}") for n in ("train", "val", "train_1pct"))
    assert [len(train), len(val), len(few)] == [9, 2, 1]
    assert val.labels.tolist() == [0, 2]
    assert few.labels.tolist() == [1]
    digest = train.names_digest()
    train.labels[0] = 2
    assert train.names_digest() != digest  # a resumed run with other labels is refused

    both = ReferenceAndQuery(build_labelled_source("imagenet_1k_train"), val)
    records = [both[index] for index in range(len(both))]
    assert [r["index"] for r in records] == list(range(11))
    assert [r["is_query"] for r in records] == [False] * 9 + [True] * 2
    assert records[10]["label"] == 2
    alone = build_labelled_source(str(tmp_path / "imagenet" / "val"))
    with pytest.raises(DataError, match="have 3 classes, the queries .* 2"):
        ReferenceAndQuery(train, alone)


def write_voc(root, files, images):
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for name, text in files.items():
        (root / "ImageSets" / "Main" / name).write_text(text)
    for name in images:
        (root / "JPEGImages" / f"{name}.jpg").touch()


def test_voc_labels(tmp_path):
    files = {
        "dog_trainval.txt": "000002  1\n000001 -1\n\n",
        "cat_trainval.txt": "000001  0\n000002 -1\n",
        "trainval.txt": "000001\n000002\n",
        "dog_test.txt": "000003 1\n",
    }
    write_voc(tmp_path, files, ["000001", "000002"])
    labels = load_voc_labels(tmp_path, "trainval")
    assert labels.classes == ["cat", "dog"]
    # difficult -> ignored (-1), absent -> 0, present -> 1
    np.testing.assert_array_equal(labels.labels, [[-1, 0], [0, 1]])
    assert [r["image_id"] for r in labels.records()] == ["000001", "000002"]
    with pytest.raises(DataError, match="1 of 1 images of test are missing.*000003"):
        load_voc_labels(tmp_path, "test")
    with pytest.raises(DataError, match="has no files <class>_val.txt"):
        load_voc_labels(tmp_path, "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("000001 2\n", "line 1: '000001 2' is not 'name label'"),
        ("000001 1\n000001 1\n", "line 2: image 000001 is listed twice"),
        ("000001 1\n000009 1\n", "list different images, e.g. 000009"),
        ("", "is empty"),
    ],
)
def test_bad_class_files_are_named(tmp_path, text, message):
    write_voc(tmp_path, {"cat_test.txt": "000001 1\n", "dog_test.txt": text}, ["000001"])
    with pytest.raises(DataError, match=message):
        load_voc_labels(tmp_path, "test")


def test_textures_builder(tmp_path, monkeypatch, capsys):
    script = load_script("prepare_textures")
    arguments = ["prepare_textures.py", "--output", str(tmp_path / "textures"), "--train", "2", "--val", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    print(script.main())
    print(script.main())  # again: verifies
    assert "already there" in capsys.readouterr().out
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    train, val = build_labelled_source("textures_train"), build_labelled_source("textures_val")
    assert train.classes == sorted(script.CLASSES)
    assert (train.labels.tolist(), val.labels.tolist()) == ([0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 2, 3])
    images = [np.array(Image.open(train[i]["file_name"])) for i in range(8)]
    assert len({image.tobytes() for image in images}) == 8
    monkeypatch.setattr("sys.argv", [*arguments[:2], str(tmp_path / "b"), "--size", "4"])
    with pytest.raises(DataError, match="--size at least 8"):
        script.main()
