"""What is wrong with a benchmark is said before its first run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf
from PIL import Image

from densessl.benchmark import checks, comparison
from densessl.benchmark.cells import PRETRAIN, Cell
from densessl.benchmark.collect import Entry
from densessl.benchmark.plan import plan_comparison
from densessl.benchmark.suites import read_comparison
from densessl.data.datasets.subset import labelled_subset
from densessl.errors import CheckpointError, ConfigError, DataError
from densessl.modeling.backbone import build_resnet

torch.set_num_threads(1)
CONFIGS = Path(__file__).parents[2] / "configs"
DETECTOR = str(CONFIGS / "quickstart/mask_rcnn_R_18_coral_random.py")
PRETRAINING = str(CONFIGS / "benchmarks/mini/densecl_R_18.py")


@pytest.fixture(scope="module")
def suite():
    return read_comparison("mini_rcnn")


@pytest.fixture(scope="module")
def plan(suite):
    cells = plan_comparison(suite, 1)
    return cells, checks.load_configs(cells)


def keys(suite, cells):
    return checks.task_keys(cells, suite.same_pretrain, suite.same_downstream)


def test_mini_rcnn_is_fair(suite, plan):
    cells, configs = plan
    checks.check_fair(cells, configs, keys(suite, cells))
    assert {cell.task for cell in cells} == {PRETRAIN, "mask_rcnn"}
    assert "dataloader" in suite.same_pretrain
    assert {"dataloader", "model"} <= set(suite.same_downstream)


@pytest.mark.parametrize(
    ("row", "task", "override", "key"),
    [
        ("densecl", PRETRAIN, "train.max_iter=2000", "train.max_iter: 1000 -> 2000"),
        ("moco_v2", PRETRAIN, "dataloader.train.mapper.crop_size=160", "dataloader.train.mapper.crop_size"),
        ("moco_v2", PRETRAIN, "dataloader.train.total_batch_size=32", "dataloader.train.total_batch_size"),
        ("densecl", PRETRAIN, "model.backbone.init=fan_in", "model.backbone.init"),
        ("densecl", "mask_rcnn", "dataloader.train.dataset.count=100", "dataloader.train.dataset.count"),
        ("densecl", "mask_rcnn", "train.max_iter=1200", "train.max_iter"),
    ],
)
def test_an_advantage_of_one_method_is_refused(suite, plan, row, task, override, key):
    cells, configs = plan
    (cell,) = [cell for cell in cells if (cell.row, cell.task) == (row, task)]
    changed = {
        cell.name: checks.load_configs([replace(cell, overrides=(*cell.overrides, override))])[cell.name]
    }
    with pytest.raises(ConfigError, match=f"and {cell.name} must be equal in these settings: .*{key}"):
        checks.check_fair(cells, {**configs, **changed}, keys(suite, cells))


def test_a_key_that_no_config_has_is_refused(suite, plan):
    cells, configs = plan
    with pytest.raises(ConfigError, match=r"wants model\.queue_size to be equal"):
        checks.check_fair(cells, configs, checks.task_keys(cells, ["model.queue_size"], ["model"]))


def test_one_seed_gives_all_methods_and_the_scratch_detector_the_same_initial_trunk(plan):
    cells, configs = plan
    trunks = {}
    for cell in cells:
        torch.manual_seed(3)
        model = instantiate(configs[cell.name].model)
        trunk = getattr(model.backbone, "bottom_up", model.backbone)
        trunks[cell.name] = trunk.state_dict()
    first = trunks.pop(cells[0].name)
    assert len(trunks) == 6
    for name, trunk in trunks.items():
        assert trunk.keys() == first.keys(), name
        assert all(torch.equal(trunk[key], first[key]) for key in first), name


def test_weights_are_tried_in_every_model(tmp_path):
    good, deep = tmp_path / "good.pth", tmp_path / "deep.pth"
    for path, depth in ((good, 18), (deep, 34)):
        model = build_resnet(depth)
        torch.save({"model": {f"backbone.{k}": v for k, v in model.state_dict().items()}}, path)
    cells = [Cell("good", "coral", seed, DETECTOR, start=str(good)) for seed in range(2)]
    cells.append(Cell("random", "coral", 0, DETECTOR))
    lines = []
    checks.check_weights(cells, checks.load_configs(cells), lines.append)
    count = len(build_resnet(18).state_dict())
    assert lines == [f"good in coral: {count} tensors load from {good}"]  # once, not per seed
    cells.append(Cell("deep", "coral", 0, DETECTOR, start=str(deep)))
    with pytest.raises(CheckpointError, match=r"^deep in coral: .*deep.pth .* does not fit the model"):
        checks.check_weights(cells, checks.load_configs(cells), lines.append)
    cells[-1] = Cell("gone", "coral", 0, DETECTOR, start=str(tmp_path / "gone.pth"))
    with pytest.raises(CheckpointError, match=r"^gone in coral: Checkpoint .*gone.pth does not exist"):
        checks.check_weights(cells, checks.load_configs(cells), lines.append)


def test_configs_batches_and_data_are_checked(tmp_path, monkeypatch):
    def check(*overrides, processes=1):
        cells = [Cell("a", "coral", 0, DETECTOR, overrides, metrics=("bbox/AP",))]
        checks.check_runs(cells, checks.load_configs(cells), processes)

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"^a in coral: Override 'train.max_itr=1'.*Did you mean 'max_iter'"
    ):
        check("train.max_itr=1")
    with pytest.raises(ConfigError, match=r"^a in coral: train.max_iter=0"):
        check("train.max_iter=0")
    with pytest.raises(ConfigError, match=r"^a in coral: dataloader.train.total_batch_size=4.* 3 process"):
        check(processes=3)
    with pytest.raises(DataError, match=r"^a in coral: .*Build it with `python datasets/prepare_coral.py`"):
        check()


def test_a_task_without_evaluator_is_refused():
    cell = Cell("a", "t", 0, PRETRAINING, metrics=("bbox/AP",))
    with pytest.raises(ConfigError, match=r"has no dataloader\.evaluator"):
        checks.check_runs([cell], checks.load_configs([cell]), 1)


@pytest.fixture
def pictures(tmp_path):
    """Registered sets of two noise pictures each, and a folder of two others."""
    rng = np.random.default_rng(0)
    names = {}
    for split in ("train", "val"):
        records = []
        for index in range(2):
            path = tmp_path / split / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
            annotation = {"category_id": 0, "bbox": [0, 0, 1, 1], "iscrowd": 0}
            records.append({"file_name": str(path), "image_id": index, "annotations": [annotation]})
        names[split] = f"benchmark_leak_{split}"
        DatasetCatalog.register(names[split], lambda records=records: records)
        MetadataCatalog.get(names[split]).set(thing_classes=["thing"])
    folder = tmp_path / "unlabelled"
    folder.mkdir()
    for index in range(2):
        pixels = rng.integers(0, 256, (50, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    yield folder, names
    for name in names.values():
        DatasetCatalog.remove(name)


def test_validation_pictures_are_looked_for_in_both_trainings(pictures, tmp_path, monkeypatch):
    folder, names = pictures
    opened = []
    monkeypatch.setattr(checks, "instantiate", lambda node: opened.append(node) or instantiate(node))

    def check(train):
        cells = 2 * [
            Cell("a", PRETRAIN, 0, PRETRAINING, (f"dataloader.train.dataset.source={folder}",)),
            Cell(
                *("a", "boxes", 0, DETECTOR),
                (f"dataloader.train.dataset.names={train}", f"dataloader.test.dataset.names={names['val']}"),
                metrics=("bbox/AP",),
            ),
        ]
        return checks.check_leaks(cells, checks.load_configs(cells), lambda line: None)

    facts = check(names["train"])
    assert len(opened) == 3  # each data set once, however many cells use it
    assert {name: fact["images"] for name, fact in facts.items()} == {
        f"train: {folder}": 2,
        f"train: {names['train']}": 2,
        f"validation: {names['val']} (filter_empty=False)": 2,
    }
    assert len({fact["digest"] for fact in facts.values()}) == 3
    with pytest.raises(DataError, match=rf"{names['val']}: 2 of its pictures .*\(the same file\)"):
        check(names["val"])
    with Image.open(tmp_path / "val/1.png") as picture:
        picture.resize((60, 45), Image.Resampling.BOX).save(folder / "copy.png")
    with pytest.raises(
        DataError, match=r"unlabelled: 1 of its pictures .*copy.png is .*val/1.png \(\d+ of 128"
    ):
        check(names["train"])


def test_a_comparison_does_not_go_on_with_other_pictures(tmp_path):
    found = {"train: x": {"images": 3, "digest": "abc"}}
    comparison.check_data(found, tmp_path)
    comparison.check_data({**found, "train: y": {"images": 1, "digest": "d"}}, tmp_path)
    assert json.loads((tmp_path / "data.json").read_text()).keys() == {"train: x", "train: y"}
    with pytest.raises(DataError, match="train: x.images: 3 -> 4"):
        comparison.check_data({"train: x": {"images": 4, "digest": "abc"}}, tmp_path)
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(DataError, match="data.json is damaged"):
        comparison.check_data(found, tmp_path)


def test_notes_say_what_was_tuned_and_what_was_not(suite, tmp_path):
    tuned = replace(suite.methods[1], tuned="seed 1000: mask AP 1, 2, 3, 4")
    text = "\n".join(comparison.notes(replace(suite, methods=(suite.methods[0], tuned)), tmp_path))
    assert "| scratch | fine-tuning optimizer.lr=0.001 | 1 of 0..3 | not tuned: the trials" in text
    assert "| 3 of 0..3 | seed 1000: mask AP 1, 2, 3, 4 |" in text
    assert "not opened yet" in text
    everything = "\n".join(comparison.notes(suite, tmp_path, all_trials=True))
    assert all(f"| {m.name}-trial{i} |" in everything for m in suite.methods for i in range(4))


def test_the_best_trial_is_named_only_when_all_have_run(suite):
    def entry(row, value):
        cell = Cell(row, "mask_rcnn", 1000, "c.py", metrics=("segm/AP",))
        return Entry(cell, "finished", {} if value is None else {"segm/AP": value})

    reached = {"scratch": (1.0, 4.0, 3.0, 2.0), "simsiam": (5.0, None, 6.0, 7.0)}
    entries = [entry(f"{name}-trial{i}", v) for name, values in reached.items() for i, v in enumerate(values)]
    text = comparison.trials_table(suite, entries)
    assert "Trials, mask AP of mask_rcnn, seed 1000:" in text
    assert "| scratch | 1.00 | 4.00 | 3.00 | 2.00 | 1 |" in text
    assert "| simsiam | 5.00 | none | 6.00 | 7.00 | incomplete |" in text


def test_labelled_subset_is_spread_and_fixed():
    name = "benchmark_subset_test"
    annotation = {"category_id": 0, "bbox": [0, 0, 1, 1], "iscrowd": 0}
    records = [{"file_name": f"{i}.jpg", "image_id": i, "annotations": [annotation]} for i in range(10)]
    records[3]["annotations"] = []  # without objects: left out
    DatasetCatalog.register(name, lambda: [dict(record) for record in records])
    try:
        assert [r["image_id"] for r in labelled_subset(name, 3)] == [0, 4, 7]
        assert len(labelled_subset(name, 9)) == 9
        for count in (0, 10):
            with pytest.raises(DataError, match="which has 9 pictures with objects"):
                labelled_subset(name, count)
    finally:
        DatasetCatalog.remove(name)


def test_the_mini_detector_sees_few_labels(plan):
    cells, configs = plan
    dataset = configs[cells[0].name].dataloader.train.dataset
    assert OmegaConf.to_container(dataset, resolve=True)["count"] == 200
