"""Switches that change how a model computes: same names, same numbers."""

import copy
import functools

import pytest
import torch
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn

from densessl.engine import model_transforms
from densessl.errors import ConfigError


def resnet(norm: str = "BN") -> nn.Module:
    torch.manual_seed(0)
    stages = ResNet.make_default_stages(18, norm=norm)
    return ResNet(BasicStem(3, 64, norm), stages, out_features=["res5"]).train()


def step(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    loss = model(images)["res5"].square().mean()
    loss.backward()
    return loss.detach()


def test_recomputed_blocks_give_the_same_gradients_and_statistics():
    plain = resnet()
    recomputed = copy.deepcopy(plain)
    assert model_transforms.checkpoint_activations(recomputed) == 9  # stem and eight blocks
    assert list(plain.state_dict()) == list(recomputed.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for _ in range(2):
        torch.testing.assert_close(step(plain, images), step(recomputed, images), rtol=0, atol=0)
    for (name, a), (_, b) in zip(plain.named_parameters(), recomputed.named_parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0, msg=name)
    # running statistics moved twice would differ, and the batch counter would be 4
    for (name, a), (_, b) in zip(plain.named_buffers(), recomputed.named_buffers()):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    assert recomputed.stem.conv1.norm.num_batches_tracked == 2
    assert recomputed.stem.conv1.norm.momentum == plain.stem.conv1.norm.momentum


def test_recomputing_saves_memory():
    def kept(model: nn.Module) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            model(torch.randn(2, 3, 64, 64))
        return sum(sizes)

    plain = resnet()
    recomputed = copy.deepcopy(plain)
    model_transforms.checkpoint_activations(recomputed)
    assert kept(recomputed) < 0.5 * kept(plain)


def test_no_block_to_recompute():
    with pytest.raises(ConfigError, match="no ResNet or transformer block"):
        model_transforms.checkpoint_activations(nn.Linear(2, 2))


def test_sync_bn_becomes_naive_and_keeps_its_weights():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4, eps=1e-3), nn.Sequential(nn.SyncBatchNorm(4))
    )
    with torch.no_grad():
        model[1].weight.uniform_()
    model[2][0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    assert model_transforms.replace_sync_bn(model) == 2
    assert all(type(norm) is NaiveSyncBatchNorm for norm in (model[1], model[2][0]))
    assert model[1].eps == 1e-3
    assert not model[2][0].weight.requires_grad
    assert list(before) == list(model.state_dict())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 4, 4, 4)


def test_channels_last_changes_layout_only():
    plain = resnet()
    last = copy.deepcopy(plain)
    model_transforms.to_channels_last(last)
    images = torch.randn(2, 3, 64, 64)
    assert last(images)["res5"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last(images)["res5"], plain(images)["res5"], rtol=0, atol=1e-4)


def test_compiled_forward_agrees(monkeypatch):
    # captures the graph as ever; generating code for it would take most of a minute
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
    compiled = copy.deepcopy(model)
    model_transforms.compile_forward(compiled)
    assert list(compiled.state_dict()) == list(model.state_dict())
    x = torch.randn(5, 4)
    torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-6)
    assert compiled._compiled_call_impl is not None
