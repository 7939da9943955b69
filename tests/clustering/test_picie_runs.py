"""PiCIE and MDC through the trainer: the resume law, evaluation on a small COCO-Stuff, all recipes."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from cluster_runs import ROOT, final_state, train, write_pictures
from detectron2.config import instantiate
from PIL import Image

from densessl.checkpoint.transfer import load_initial_weights
from densessl.clustering.labels import LabelFile
from densessl.config import load_config
from densessl.engine import defaults

RECIPES = sorted((ROOT / "projects/PiCIE/configs").glob("*.py"))
# views, classifier, images, lr, iterations per epoch
EXPECTED = {
    "mdc_R_18_cityscapes_10ep": (1, "ClusterClassifier", 21523, 1e-3, 168),
    "mdc_R_18_coco_10ep": (1, "ClusterClassifier", 49629, 1e-4, 387),
    "picie_R_18_cityscapes_10ep": (2, "NoneType", 21523, 1e-3, 168),
    "picie_R_18_coco_10ep": (2, "NoneType", 49629, 1e-4, 387),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    write_pictures(folder)
    return folder


@pytest.mark.parametrize("name", ["picie", "mdc"])
def test_stopped_anywhere_a_run_ends_in_the_same_bits(tmp_path, pictures, name):
    train(name, tmp_path / "whole", pictures)
    expected = final_state(tmp_path / "whole")
    # within the second epoch; after its last step, with a worker
    cases = {"within": (2, 0), "end": (3, 1)}
    for case, (step, workers) in cases.items():
        options = [f"dataloader.train.num_workers={workers}"]
        train(name, tmp_path / case, pictures, *options, stop_in_step=step)
        train(name, tmp_path / case, pictures, *options)
        assert final_state(tmp_path / case) == expected, case


class Killed(Exception):
    """What a kill looks like to the test."""


def test_killed_while_labelling(tmp_path, pictures, monkeypatch):
    options = ["train.checkpointer.period=1", "train.max_iter=3"]
    train("picie", tmp_path / "whole", pictures, *options)
    write = LabelFile.write

    def die(labels, view, indices, values):
        write(labels, view, indices, values)
        if labels.path.endswith("0001.npy") and view == 1:
            raise Killed

    monkeypatch.setattr(LabelFile, "write", die)
    with pytest.raises(Killed):
        train("picie", tmp_path / "killed", pictures, *options)
    monkeypatch.setattr(LabelFile, "write", write)
    # the last checkpoint is that of the end of the first epoch; the label file is half written
    assert [path.name for path in (tmp_path / "killed").glob("*.partial")] == [
        "cluster_labels_0001.npy.partial"
    ]
    train("picie", tmp_path / "killed", pictures, *options)
    assert not list((tmp_path / "killed").glob("*.partial"))
    assert final_state(tmp_path / "killed") == final_state(tmp_path / "whole")


def write_coco_stuff(root: Path) -> None:
    """Four images of 60 x 50: the left half is sky, the right half grass, two rows are unlabelled."""
    rng = np.random.default_rng(0)
    for split in ("train2017", "val2017"):
        for folder in (split, f"stuffthingmaps/{split}", f"curated/{split}"):
            (root / folder).mkdir(parents=True)
        names = [f"{index:012d}" for index in range(1, 5)]
        for name in names:
            image = rng.integers(0, 60, (50, 60, 3), dtype=np.uint8)
            image[:, :30] += 180
            Image.fromarray(image).save(root / split / f"{name}.jpg", quality=95)
            labels = np.full((50, 60), 123, np.uint8)  # grass
            labels[:, :30], labels[:2] = 156, 255  # sky-other
            Image.fromarray(labels).save(root / f"stuffthingmaps/{split}/{name}.png")
        lines = "\n".join(names) + "\n"
        (root / f"curated/{split}/Coco164kFull_Stuff_Coarse_7.txt").write_text(lines)


def test_full_recipe_on_a_small_coco_stuff(tmp_path, monkeypatch):
    write_coco_stuff(tmp_path / "coco")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    options = [
        *("train.device=cpu", "train.amp.enabled=false", f"train.output_dir={tmp_path / 'output'}"),
        *("model.resolution=32", "dataloader.train.mapper.size=64", "dataloader.test.mapper.size=32"),
        *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "train.max_iter=1"),
        *("dataloader.train.total_batch_size=4", "dataloader.test.batch_size=3"),
    ]
    cfg = load_config(str(ROOT / "projects/PiCIE/configs/picie_R_18_coco_10ep.py"), options)
    results = defaults.run(cfg, Namespace(resume=False, eval_only=False))["cluster_seg"]
    written = json.loads((tmp_path / "output/evaluation.json").read_text())["results"]["cluster_seg"]
    assert written == results
    again = [*options, f"train.init_checkpoint={tmp_path / 'output/model_final.pth'}"]
    cfg = load_config(str(ROOT / "projects/PiCIE/configs/picie_R_18_coco_10ep.py"), again)
    assert defaults.run(cfg, Namespace(resume=False, eval_only=True))["cluster_seg"] == results
    for view in ("view1", "view2", "fresh1"):
        assert 0 < results[f"acc_{view}"] <= 100
        assert set(results) >= {f"IoU-sky-stuff_{view}", f"IoU-plant-stuff_{view}", f"stuff_mIoU_{view}"}
        assert f"IoU-person-things_{view}" not in results or results[f"IoU-person-things_{view}"] == 0.0


def test_every_recipe_is_known_here():
    assert [path.stem for path in RECIPES] == sorted(EXPECTED)


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_recipe_and_twin(path):
    views, classifier, images, lr, steps = EXPECTED[path.stem]
    cfg = load_config(str(path))
    assert (cfg.dataloader.train.total_batch_size, cfg.optimizer.lr) == (128, lr)
    assert steps == images // 128
    assert (cfg.train.max_iter, cfg.train.eval_period) == (10 * steps, steps)
    assert path.stem in cfg.train.output_dir
    hook = instantiate(cfg.train.hooks)[0]
    assert (hook.batch_size, hook.init_batches) == (
        256,
        30 if path.stem == "mdc_R_18_cityscapes_10ep" else 20,
    )
    cfg.dataloader.evaluator.num_clusters = cfg.model.num_clusters
    scorer = instantiate(cfg.dataloader.evaluator)
    assert (len(scorer.class_names), scorer.num_clusters) == (27, 27)
    assert (scorer.is_thing is None) == ("cityscapes" in path.stem)
    mapper = instantiate(cfg.dataloader.train.mapper)
    assert mapper.size == 2 * cfg.model.resolution
    model = instantiate(cfg.model)
    assert model.num_views == views
    assert type(model.classifier).__name__ == classifier
    assert model.feature_size == 80
    assert sum(p.numel() for p in model.backbone.parameters()) == 11_299_904
    twin = load_config(str(ROOT / f"configs/quick_schedules/{path.stem}_quick.py"))
    assert twin.dataloader.train.mapper.size == 2 * twin.model.resolution
    assert instantiate(twin.model).num_views == views


@pytest.mark.parametrize("name", EXPECTED)
def test_twin_trains(tmp_path, pictures, name):
    train(name, tmp_path / "run", pictures, "train.max_iter=1", whole_network=True)
    assert final_state(tmp_path / "run")["iteration"] == 1


def test_trunk_starts_from_imagenet_and_moves_to_a_detector(tmp_path, pictures):
    """torchvision's file as it is -> PiCIE; its checkpoint -> trunk of Mask R-CNN with a feature pyramid."""
    torch.manual_seed(0)
    weights = torchvision.models.resnet18().state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    train(
        "picie",
        tmp_path / "run",
        pictures,
        f"train.init_checkpoint={tmp_path / 'resnet18.pth'}",
        "optimizer.lr=0.0",
        "train.max_iter=1",
        whole_network=True,
    )
    state = torch.load(tmp_path / "run/model_final.pth", weights_only=True)["model"]
    key = "backbone.bottom_up.res4.0.conv1.weight"
    assert torch.equal(state[key], weights["layer3.0.conv1.weight"])
    cfg = load_config(str(ROOT / "configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_2fc.py"))
    cfg.model.backbone.bottom_up.depth = 18
    cfg.model.backbone.bottom_up.norm = "BN"
    detector = instantiate(cfg.model)
    load_initial_weights(detector, str(tmp_path / "run/model_final.pth"), False)
    assert torch.equal(detector.state_dict()[key], state[key])
