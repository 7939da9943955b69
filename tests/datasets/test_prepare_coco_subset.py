"""Lists of a part of COCO: nested, uniform, the same everywhere, and named when they are missing."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from builders import load_script
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from densessl.config import load_config
from densessl.data.datasets.coco_subsets import draw_images, register_subsets, subset_suffix
from densessl.engine.checks import check_datasets
from densessl.errors import DataError

CONFIGS = Path(__file__).parents[2] / "configs"
script = load_script("prepare_coco_subset")


@pytest.fixture
def source(tmp_path):
    """A COCO file with 200 images in another order than their ids, 0 to 3 annotations each."""
    rng = np.random.default_rng(0)
    ids = [int(i) for i in rng.permutation(np.arange(1, 1001))[:200]]
    document = {"info": {"year": 2017}, "licenses": [], "categories": [{"id": 1, "name": "ant"}]}
    document["images"] = [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in ids]
    document["annotations"] = []
    for i in ids:
        for _ in range(int(rng.integers(4))):
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": i,
                    "category_id": 1,
                    "bbox": [1, 1, 5, 5],
                }
            )
    path = tmp_path / "instances_train2017.json"
    path.write_text(json.dumps(document))
    return path


def ids_of(path):
    return [image["id"] for image in json.loads(path.read_text())["images"]]


def test_lists_are_nested_and_complete(source):
    said = script.build(source, [1, 2, 5, 10], 0)
    full = json.loads(source.read_text())
    previous: set = set()
    for percent, count in ((1, 2), (2, 4), (5, 10), (10, 20)):
        path = source.with_name(f"instances_train2017_{percent}pct.json")
        document = json.loads(path.read_text())
        assert f"{path}: {count} images" in said
        chosen = set(ids_of(path))
        assert len(chosen) == len(document["images"]) == count
        assert previous < chosen
        previous = chosen
        assert document["annotations"] == [a for a in full["annotations"] if a["image_id"] in chosen]
        assert document["images"] == [image for image in full["images"] if image["id"] in chosen]
        assert document["categories"] == full["categories"]
        how = {"of": "instances_train2017.json", "percent": percent, "seed": 0, "images": count}
        assert document["info"] == {"year": 2017, "subset": how}
    assert [p.name for p in source.parent.iterdir() if p.name.startswith(".")] == []


def test_the_draw_is_frozen_and_does_not_depend_on_the_order_of_the_file(source):
    script.build(source, [10], 0)
    path = source.with_name("instances_train2017_10pct.json")
    first = path.read_bytes()
    script.build(source, [10], 0)
    assert path.read_bytes() == first
    # the ids themselves: another machine, numpy or version of this project must draw these
    assert draw_images(range(100), 5, 0) == [11, 92, 3, 20, 13]
    assert draw_images(range(100), 5, 1) == [93, 61, 75, 9, 36]
    assert draw_images(list(range(99, -1, -1)), 5, 0) == draw_images(range(100), 5, 0)
    coco = draw_images(range(118287), 10, 0)
    assert [len(draw_images(range(118287), p, 0)) for p in (1, 2, 5)] == [1183, 2366, 5914]
    assert (len(coco), hashlib.sha256(str(coco).encode()).hexdigest()[:12]) == (11829, "893ce600d6e0")


def test_draws_are_uniform_and_differ_between_seeds():
    counts = np.zeros(50)
    for seed in range(400):
        counts[draw_images(range(50), 10, seed)] += 1
    # 400 draws of 5 in 50: each is expected 40 times, with deviation 6
    assert counts.sum() == 2000
    assert counts.min() > 40 - 4 * 6
    assert counts.max() < 40 + 4 * 6


def test_names_and_small_shares(source):
    assert subset_suffix(10, 0) == "_10pct"
    assert subset_suffix(0.5, 3) == "_0.5pct_seed3"
    script.build(source, [0.1], 2)
    assert len(ids_of(source.with_name("instances_train2017_0.1pct_seed2.json"))) == 1
    script.build(source, [100], 0)
    assert ids_of(source.with_name("instances_train2017_100pct.json")) == ids_of(source)


def test_missing_lists_name_the_command(tmp_path, monkeypatch):
    from densessl.data.datasets import register_datasets

    register_datasets()
    name = "coco_2017_train_10pct_seed1"
    command = "python datasets/prepare_coco_subset.py --percent 10 --seed 1"
    cfg = OmegaConf.create({"dataloader": {"train": {"dataset": {"names": name}}}})
    with pytest.raises(DataError, match=f"instances_train2017_10pct_seed1.json.*{command}"):
        check_datasets(cfg, ("train",))
    with pytest.raises(DataError, match=command):
        DatasetCatalog.get(name)


def test_a_built_list_loads_under_its_name(source, monkeypatch):
    root = source.parent / "root"
    (root / "coco/annotations").mkdir(parents=True)
    source = source.rename(root / "coco/annotations" / source.name)
    script.build(source, [10], 0)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    names = [name for name in DatasetCatalog.list() if name.startswith("coco_2017_train_") and "pct" in name]
    for name in names:
        monkeypatch.delitem(DatasetCatalog.data, name)
        monkeypatch.delitem(MetadataCatalog.data, name)
    assert len(names) == 20
    register_subsets()
    with pytest.raises(DataError, match="pct_seed4.json: not found"):
        DatasetCatalog.get("coco_2017_train_1pct_seed4")
    assert MetadataCatalog.get("coco_2017_train_10pct").json_file == str(
        root / "coco/annotations/instances_train2017_10pct.json"
    )


def test_the_ten_percent_recipe_is_the_1x_on_the_list():
    def load(folder, name):
        config = OmegaConf.to_container(load_config(str(CONFIGS / folder / name)))
        return (
            config,
            config["dataloader"]["train"]["dataset"].pop("names"),
            config["train"].pop("output_dir"),
        )

    folder = "COCO-InstanceSegmentation"
    config, names, _ = load(folder, "mask_rcnn_R_50_FPN_10pct_4conv1fc.py")
    full, full_names, _ = load(folder, "mask_rcnn_R_50_FPN_1x_4conv1fc.py")
    assert (names, full_names) == ("coco_2017_train_10pct", "coco_2017_train")
    assert config == full
    twin, _, place = load("quick_schedules", "mask_rcnn_R_50_FPN_10pct_4conv1fc_quick.py")
    assert place.endswith("10pct_4conv1fc")
    assert twin == load("quick_schedules", "mask_rcnn_R_50_FPN_1x_4conv1fc_quick.py")[0]


@pytest.mark.parametrize(
    ("percents", "seed", "text", "message"),
    [
        ([0], 0, None, "percentages in"),
        ([101], 0, None, "percentages in"),
        ([1], -1, None, "a seed from 0 on"),
        ([1], 0, "{", "cannot be read"),
        ([1], 0, "{}", "no list 'images'"),
        ([1], 0, '{"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}]}', "has no annotations"),
    ],
)
def test_bad_input(source, percents, seed, text, message):
    if text is not None:
        source.write_text(text)
    with pytest.raises(DataError, match=message):
        script.build(source, percents, seed)
    with pytest.raises(DataError, match="cannot be read.*--json"):
        script.build(source.with_name("none.json"), [1], 0)


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        ([{"file_name": "a"}], [], "1 images without an id"),
        ([{"id": 7}, {"id": 7}], [], r"1 image ids that occur twice \(the first is 7\)"),
        ([{"id": 7}], [{"id": 1}], "1 annotations without image_id"),
    ],
)
def test_images_that_cannot_be_told_apart(source, images, annotations, message):
    categories = [{"id": 1, "name": "a"}]
    source.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    with pytest.raises(DataError, match=message):
        script.build(source, [50], 0)


def test_nothing_half_written_stays(source, monkeypatch):
    monkeypatch.setattr(script.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    before = sorted(p.name for p in source.parent.iterdir())
    with pytest.raises(DataError, match="cannot be written .disk full"):
        script.build(source, [1], 0)
    assert sorted(p.name for p in source.parent.iterdir()) == before
