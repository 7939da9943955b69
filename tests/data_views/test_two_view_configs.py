"""The shared two-view data configs: build, override, train sample; the two augmentation sets."""

import numpy as np
import pytest
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue
from PIL import Image
from skimage import data

from densessl.config import get_config
from densessl.layers.photometric import GRAYSCALE, ORDER, SIGMA

NAMES = ("imagenet_two_view", "coco_two_view", "folder_two_view", "imagenet_two_view_v1")


def load(name: str):
    cfg = OmegaConf.create(flags={"allow_objects": True})
    cfg.dataloader = get_config(f"common/data/{name}.py").dataloader
    cfg.train = get_config("common/train.py").train
    return cfg


@pytest.mark.parametrize("name", NAMES)
def test_loads_batches_of_a_folder(name, tmp_path):
    for index, image in enumerate((data.astronaut, data.coffee)):
        Image.fromarray(image()).save(tmp_path / f"{index}.jpg")
    cfg = load(name)
    train = cfg.dataloader.train
    train.dataset.source = str(tmp_path)
    train.mapper.crop_size, train.total_batch_size, train.num_workers = 32, 4, 0
    cfg.train.seed, cfg.train.accumulate = 7, 2
    loader = instantiate(cfg.dataloader.train)
    assert (loader.state()["seed"], loader.accumulate, loader.total_batch_size) == (7, 2, 4)
    batch = next(iter(loader))
    assert [tuple(view.shape) for view in batch["views"]] == [(2, 3, 32, 32)] * 2


def test_the_folder_must_be_given():
    with pytest.raises(MissingMandatoryValue):
        _ = load("folder_two_view").dataloader.train.dataset.source


@pytest.mark.parametrize(
    ("name", "source"),
    [("imagenet_two_view", "imagenet_1k_train"), ("coco_two_view", "coco_2017_train_images")],
)
def test_published_numbers(name, source):
    train = load(name).dataloader.train
    assert train.dataset.source == source
    mapper = instantiate(train.mapper)
    assert (mapper.output_size, mapper.crop_scale, mapper.flip_prob) == ((224, 224), (0.2, 1.0), 0.5)
    law = mapper.photometric
    assert (law.strength, law.hue, law.jitter_prob) == ((0.4, 0.4, 0.4), 0.1, 0.8)
    assert (law.grayscale_prob, law.blur_prob, law.blur_sigma) == (0.2, 0.5, (0.1, 2.0))


def test_moco_v1_set():
    law = instantiate(load("imagenet_two_view_v1").dataloader.train.mapper).photometric
    rng = np.random.default_rng(0)
    params = np.stack([law.draw(rng) for _ in range(200)])
    assert (params[:, SIGMA] == 0).all()
    assert ((params[:, ORDER] >= 0).sum(1) >= 4).all()
    assert ((params[:, ORDER] == GRAYSCALE).any(1) == (params[:, ORDER][:, 0] == GRAYSCALE)).all()


@pytest.mark.parametrize("name", NAMES)
def test_survives_saving_as_yaml(name, tmp_path):
    cfg = load(name)
    cfg.dataloader.train.dataset.source = "somewhere"
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    mapper = instantiate(again.dataloader.train.mapper)
    assert mapper.output_size == (224, 224)
    assert again.dataloader.train.collate_fn is not None
