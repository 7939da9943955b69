"""Configs and overrides are checked before anything is built."""

import textwrap
from pathlib import Path

import pytest
import torch

from densessl.config import NOUNS, apply_overrides, get_config, load_config
from densessl.errors import ConfigError

ROOT = Path(__file__).parents[1]
CONFIG = """
import torch
from detectron2.config import LazyCall as L
from detectron2.data import get_detection_dataset_dicts
from densessl.data.sources import build_image_source

model = L(torch.nn.Linear)(in_features=3, out_features=2)
dataloader = dict(
    train=L(torch.utils.data.DataLoader)(dataset=L(build_image_source)(source="a"), batch_size=2),
    test=L(torch.utils.data.DataLoader)(dataset=L(get_detection_dataset_dicts)(names="a")),
)
optimizer = L(torch.optim.SGD)(lr=0.1)
lr_multiplier = dict(factors=[1.0, 0.1])
train = dict(max_iter=10, output_dir="out", amp=dict(enabled=True), seed=None)
_private = dict(a=1)
"""


@pytest.fixture
def config_file(tmp_path):
    def write(extra=""):
        path = tmp_path / "config.py"
        path.write_text(textwrap.dedent(CONFIG) + extra)
        return str(path)

    return write


def test_valid_overrides_reach_the_config(config_file):
    overrides = [
        "train.max_iter=7",
        "optimizer.lr=1",  # an int for a float
        "optimizer.momentum=0.5",  # not in the node, but SGD takes it
        "train.amp.enabled=False",
        "lr_multiplier.factors=[1.0,0.5]",
        "lr_multiplier.factors.1=0.25",
        "train.seed=3",
    ]
    cfg = load_config(config_file(), overrides)
    assert (cfg.train.max_iter, cfg.optimizer.lr, cfg.optimizer.momentum) == (7, 1, 0.5)
    assert cfg.train.amp.enabled is False
    assert cfg.train.seed == 3
    assert list(cfg.lr_multiplier.factors) == [1.0, 0.25]
    assert sorted(cfg) == sorted(NOUNS)


def test_an_argument_takes_what_its_annotation_allows(config_file):
    overrides = ["dataloader.train.dataset.source=[b,c]", "dataloader.test.dataset.names=[b,c]"]
    cfg = load_config(config_file(), overrides)
    assert cfg.dataloader.train.dataset.source == ["b", "c"]
    assert cfg.dataloader.test.dataset.names == ["b", "c"]


def test_a_node_with_a_target_replaces_the_old_one(config_file):
    cfg = load_config(config_file(), ["model={_target_: torch.nn.ReLU, inplace: true}"])
    assert dict(cfg.model) == {"_target_": "torch.nn.ReLU", "inplace": True}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_itr=7", r"'train.max_itr=7'.*no key 'max_itr'.*Did you mean 'max_iter'"),
        ("optimizr.lr=1", r"Did you mean 'optimizer'"),
        ("optimizer.momentm=0.5", r"Did you mean 'momentum'"),
        ("train.max_iter=7.5", r"takes int, not float"),
        ("train.max_iter=true", r"takes int, not bool"),
        ("train.amp.enabled=1", r"takes bool, not int"),
        ("train.amp=false", r"holds several values"),
        ("train.amp={enabeld: true}", r"Did you mean 'enabled'"),
        ("train.output_dir=5", r"takes str, not int.*Quote it"),
        ("train.max_iter.x=5", r"train.max_iter is 10, which has no key 'x'"),
        ("lr_multiplier.factors.5=0.1", r"is a list of 2"),
        ("+train.new=5", r"cannot be added"),
        ("~train.seed", r"cannot be added or deleted"),
        ("train.max_iter", r"not of the form key=value"),
        ("optimizer.foreach=maybe", r"optimizer.foreach is None, so it takes bool, not str"),  # no value yet
        ("model.bias=maybe", r"model.bias is None, so it takes bool, not str"),
        ("dataloader.train.dataset.source=5", r"takes str or list, not int"),
        ("dataloader.test.dataset.names=5", r"takes str or list, not int"),
        ("dataloader.test={_target_: densessl.data.build.build_test_loader2}", r"cannot be imported"),
        ("model={_target_: torch.nn.ReLU, inplce: true}", r"takes no argument 'inplce'.*'inplace'"),
    ],
)
def test_wrong_override_is_named(config_file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config_file(), [override])


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("optimizer.lrr = 3", r"optimizer.lrr: torch.optim.sgd.SGD takes no argument 'lrr'.*'lr'"),
        ("trian = dict(a=1)", r"unknown top-level name 'trian'.*Did you mean 'train'"),
        ("train['max_iter'] = '???'", r"leaves these values open: train.max_iter"),
        ("optimizer['_target_'] = 'torch.optim.SGG'", r"_target_ 'torch.optim.SGG' cannot be imported"),
        ("del optimizer", r"the config has no optimizer"),
        ("def f(:", r"cannot be loaded: SyntaxError: .*line \d+"),
        ("undefined_name", r"cannot be loaded: NameError: .*'undefined_name'.*config.py, line \d+"),
        ("1 / 0", r"cannot be loaded: ZeroDivisionError"),
        (
            "from densessl.config import get_config\nget_config('common/trian.py')",
            r"^There is no shared config",
        ),
        ("from .missing import model", r"missing.py does not exist"),
    ],
)
def test_wrong_config_file_is_named(config_file, extra, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config_file(extra))


def test_missing_config_file_names_the_nearest(config_file):
    path = config_file()
    with pytest.raises(ConfigError, match=r"no config file.*Did you mean '.*/config.py'"):
        load_config(path.replace("config.py", "confg.py"))


def test_shared_configs_are_found():
    assert get_config("common/train.py").train.accumulate == 1
    assert get_config("common/optim.py").SGD["_target_"] is torch.optim.SGD
    with pytest.raises(ConfigError, match=r"Did you mean 'common/train.py'"):
        get_config("common/trian.py")


def test_override_of_interpolated_value():
    cfg = get_config("common/optim.py")
    apply_overrides(cfg, ["SGD.lr=0.5"])
    assert cfg.SGD.params.base_lr == 0.5


@pytest.mark.parametrize(
    ("recipe", "batch"),
    [
        ("projects/DenseCL/configs/densecl_R_50_coco_800ep.py", 256),
        ("projects/DenseCL/configs/simsiam_R_50_imagenet_100ep.py", 512),
        ("configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_2fc.py", 16),
    ],
)
def test_the_rate_of_a_recipe_scales_from_its_own_batch(recipe, batch):
    cfg = load_config(str(ROOT / recipe), [f"dataloader.train.total_batch_size={batch // 4}"])
    assert cfg.train.lr_scaling.base_batch == batch
    assert load_config(str(ROOT / recipe), ["train.lr_scaling.base_batch=7"]).train.lr_scaling.base_batch == 7
