"""Parameter groups and learning-rate schedules."""

import math

import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import nn

from densessl.config import config_root
from densessl.errors import ConfigError
from densessl.solver import EpochwiseParamScheduler, get_param_groups


def by_name(groups):
    return {name: group for group in groups for name in group["param_names"]}


def test_groups_by_pattern_and_norm():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[0].bias.requires_grad = False
    overrides = [{"pattern": r"^2\.", "fixed_lr": True}, {"pattern": r"2\.bias", "lr_factor": 0.1}]
    groups = by_name(get_param_groups(model, 0.5, 1e-4, weight_decay_norm=0.0, overrides=overrides))
    assert sorted(groups) == ["0.weight", "1.bias", "1.weight", "2.bias", "2.weight"]
    assert (groups["0.weight"]["lr"], groups["0.weight"]["weight_decay"]) == (0.5, 1e-4)
    assert groups["1.weight"]["weight_decay"] == 0.0
    assert groups["2.weight"]["fixed_lr"]
    assert groups["2.bias"]["lr"] == pytest.approx(0.05)
    assert not groups["0.weight"]["fixed_lr"]


def test_shared_parameters_appear_once_and_names_match_tensors():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    (group,) = get_param_groups(model, 0.1, 0.0)
    named = dict(model.named_parameters())
    assert group["param_names"] == ["0.weight", "0.bias", "1.bias"]
    assert all(named[name] is tensor for name, tensor in zip(group["param_names"], group["params"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [({"pattern": "no_such"}, "matches no parameter"), ({"pattern": "0", "lr": 1}, "unknown key 'lr'")],
)
def test_useless_override_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        get_param_groups(nn.Sequential(nn.Linear(1, 1)), 0.1, 0.0, overrides=[override])


def test_epochwise_cosine_is_the_published_one():
    """lr_e = lr / 2 (1 + cos(pi e / E)), constant in the 462 steps of a COCO epoch; the last of 800 epochs at
    lr 0.3 is 1.157e-6 (a log of the authors' run, DenseCL issue 6)."""
    schedule, steps = EpochwiseParamScheduler(CosineParamScheduler(1.0, 0.0), 800), 462
    for epoch in (0, 1, 7, 399, 799):
        expected = 0.5 * (1 + math.cos(math.pi * epoch / 800))
        for iteration in (epoch * steps, epoch * steps + 1, (epoch + 1) * steps - 1):
            assert schedule(iteration / (800 * steps)) == pytest.approx(expected, abs=1e-12)
    assert 0.3 * schedule(1 - 1e-9) == pytest.approx(1.157e-6, rel=1e-3)


def test_every_epoch_starts_on_its_first_step():
    for epochs, steps in ((200, 5004), (800, 462), (100, 2502)):
        schedule = EpochwiseParamScheduler(lambda where: where, epochs)
        values = [schedule(epoch * steps / (epochs * steps)) for epoch in range(epochs)]
        assert values == pytest.approx([epoch / epochs for epoch in range(epochs)], abs=1e-12)


def test_shared_schedules_give_published_lengths():
    from detectron2.config import LazyConfig, instantiate

    schedule = str(config_root() / "common/schedule.py")
    cosine, step, multistep = LazyConfig.load(schedule, ("cosine", "step", "multistep"))
    assert cosine(800, 118287, 256)[1] == 369600
    assert cosine(200, 1281167, 256)[1] == 1000800
    multiplier, _ = step(200, [120, 160], 1281167, 256)
    assert [instantiate(multiplier)(e / 200) for e in (0, 119, 120, 160)] == pytest.approx([1, 1, 0.1, 0.01])
    multiplier, length = multistep(24000, [18000, 22000], warmup_iters=100)
    values = [instantiate(multiplier)(i / length) for i in (0, 50, 100, 17999, 18000, 22000)]
    assert values == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.01])


def test_fused_sgd_with_groups_steps():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(get_param_groups(model, 0.1, 0.0), lr=0.1, fused=True)
    before = model.weight.detach().clone()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.weight, before - 0.1)
