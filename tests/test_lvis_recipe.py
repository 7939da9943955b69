"""The LVIS recipe: published values, repeated sampling, and a CPU-sized twin that trains and resumes."""

import json
import sys
from argparse import Namespace
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler

from densessl.config import load_config
from densessl.data.build import build_train_loader
from densessl.data.datasets import register_datasets, sample
from densessl.data.datasets.sample_writer import build_atomically, sha256_of
from densessl.engine import defaults

torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs/LVIS-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
TWIN = ROOT / "configs/quick_schedules/lvis_mask_rcnn_R_50_FPN_1x_quick.py"


@pytest.fixture(scope="module")
def coral_lvis(tmp_path_factory):
    """Builds a small `coral` and its LVIS annotations, and registers them in place of the user's."""
    sys.path.insert(0, str(ROOT / "tests/datasets"))
    from builders import fake_sdist, load_script

    register_datasets()
    root = tmp_path_factory.mktemp("datasets")
    sdist = fake_sdist(root / "sdist.tar.gz")
    coral, lvis = load_script("prepare_coral"), load_script("prepare_coral_lvis")
    build_atomically(root / "coral", lambda folder: coral.build(folder, 80, sdist, sha256_of(sdist)))
    said = build_atomically(root / "coral_lvis", partial(lvis.build, coral=root / "coral"))
    assert "format of LVIS v1" in said
    names = ("coral_lvis_train", "coral_lvis_val")
    kept = {name: (DatasetCatalog.data.pop(name), MetadataCatalog.data.pop(name)) for name in names}
    sample.register_coral_lvis(root)
    yield root
    for name, (load, metadata) in kept.items():
        DatasetCatalog[name], MetadataCatalog[name] = load, metadata


def test_published_values():
    cfg = load_config(str(RECIPE))
    heads, train = cfg.model.roi_heads, cfg.dataloader.train
    assert heads.num_classes == heads.mask_head.num_classes == heads.box_predictor.num_classes == 1203
    assert (heads.box_predictor.test_score_thresh, heads.box_predictor.test_topk_per_image) == (1e-4, 300)
    assert (train.dataset.names, cfg.dataloader.test.dataset.names) == ("lvis_v1_train", "lvis_v1_val")
    assert (train.repeat_threshold, train.total_batch_size, train.aspect_ratio_grouping) == (0.001, 16, True)
    assert cfg.dataloader.evaluator.dataset_name == "lvis_v1_val"
    assert list(train.mapper.augmentations[0].short_edge_length) == list(range(640, 801, 32))
    assert (cfg.train.max_iter, cfg.optimizer.lr, cfg.optimizer.weight_decay) == (180000, 0.02, 1e-4)
    assert cfg.optimizer.params.weight_decay_norm == 0.0
    multiplier = instantiate(cfg.lr_multiplier)
    rates = [0.02 * multiplier(i / 180000) for i in (0, 1000, 119999, 120000, 159999, 160000)]
    assert rates == pytest.approx([2e-5, 0.02, 0.02, 0.002, 0.002, 0.0002])
    model = instantiate(cfg.model)
    assert model.roi_heads.mask_head.predictor.out_channels == 1203
    norms = Counter(type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__)
    assert norms == {"SyncBatchNorm": 61}  # 53 in the trunk, 8 in the pyramid
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_annotations_are_a_true_part_of_what_coral_knows(coral_lvis):
    for split in ("train", "val"):
        full = json.loads((coral_lvis / f"coral/annotations/instances_{split}.json").read_text())
        document = json.loads((coral_lvis / f"coral_lvis/annotations/lvis_{split}.json").read_text())
        assert len(document["annotations"]) == len(full["annotations"])
        negative = incomplete = 0
        for image in document["images"]:
            here = {a["category_id"] for a in full["annotations"] if a["image_id"] == image["id"]}
            assert not here & set(image["neg_category_ids"])
            assert here >= set(image["not_exhaustive_category_ids"])
            negative += len(image["neg_category_ids"])
            incomplete += len(image["not_exhaustive_category_ids"])
        assert {category["frequency"] for category in document["categories"]} <= {"r", "c"}
        if split == "train":
            assert incomplete > 0
    for name in ("coral_lvis_train", "coral_lvis_val"):
        assert all(Path(record["file_name"]).is_file() for record in DatasetCatalog.get(name))


def test_rare_classes_are_repeated_as_in_detectron2_and_resume_exactly(coral_lvis):
    records = [record for record in DatasetCatalog.get("coral_lvis_train") if record["annotations"]]
    for index, record in enumerate(records):  # a class in two images, one in half of them
        gone = ([0] if index > 1 else []) + ([1] if index % 2 else [])
        record["annotations"] = [a for a in record["annotations"] if a["category_id"] not in gone]

    def build():
        return build_train_loader(
            records,
            dict,
            4,
            seed=3,
            num_workers=0,
            repeat_threshold=0.9,
            aspect_ratio_grouping=True,
        )

    loader = build()
    factors = loader.sampler.order.repeat_factors
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.9)
    assert factors == pytest.approx(expected.numpy())
    # by hand: the largest of sqrt(threshold / share of images with the class) over the classes of an image
    images = Counter(c for r in records for c in {a["category_id"] for a in r["annotations"]})
    for record, factor in zip(records, factors):
        shares = [images[a["category_id"]] / len(records) for a in record["annotations"]]
        assert factor == pytest.approx(max(1.0, *[(0.9 / share) ** 0.5 for share in shares]), rel=1e-6)
    assert len(set(factors.round(3))) == 3
    straight = [[s["sample"] for s in batch] for batch in islice(loader, 40)]
    for step in (1, 7, 23):  # several epochs of unequal length
        resumed = build()
        resumed.set_step(step)
        assert [[s["sample"] for s in batch] for batch in islice(resumed, 40 - step)] == straight[step:]


def test_twin_trains_evaluates_and_resumes(coral_lvis, tmp_path):
    overrides = [f"train.output_dir={tmp_path}/run", "train.hooks.0.num_iter=1", "train.max_iter=1"]
    first = load_config(str(TWIN), overrides)
    del first.dataloader.evaluator
    defaults.run(first, Namespace(resume=False, eval_only=False))
    overrides[-1] = "train.max_iter=2"
    results = defaults.run(load_config(str(TWIN), overrides), Namespace(resume=True, eval_only=False))
    assert set(results) == {"bbox", "segm"}
    assert json.loads((tmp_path / "run/evaluation.json").read_text())["iteration"] == 2
    assert torch.load(tmp_path / "run/model_final.pth", weights_only=True)["iteration"] == 2
    assert {"AP", "APc"} <= set(results["bbox"]) or results["bbox"] == {}
