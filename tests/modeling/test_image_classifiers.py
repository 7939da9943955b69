"""Classifiers: what trains and what must not, losses and metrics by hand, both forms of a batch."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import EventStorage

from densessl.engine.model_transforms import replace_sync_bn
from densessl.errors import ConfigError
from densessl.modeling.backbone import build_resnet
from densessl.modeling.meta_arch import (
    ImageClassifier,
    LinearClassifier,
    MultiStageClassifier,
    PooledFeatures,
)
from densessl.modeling.meta_arch.image_classifier import classification_loss, linear_head

PIXELS = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
CLASSES = 6


def make(kind, **kwargs):
    torch.manual_seed(0)
    backbone = build_resnet(18)
    for name, buffer in backbone.named_buffers():  # as after pretraining: statistics that are not 0 and 1
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    if kind is not PooledFeatures:
        kwargs["num_classes"] = CLASSES
    return kind(backbone=backbone, **PIXELS, **kwargs)


def make_batch(count=4, size=64):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return {"image": images, "label": torch.arange(count) % CLASSES}


def as_list(batch):
    return [{"image": i, "label": int(n)} for i, n in zip(batch["image"], batch["label"], strict=True)]


KINDS = [(LinearClassifier, {}), (MultiStageClassifier, {"pooling": "adaptive"}), (ImageClassifier, {})]


@pytest.mark.parametrize(("kind", "kwargs"), KINDS, ids=[kind.__name__ for kind, _ in KINDS])
def test_what_training_changes(kind, kwargs):
    model = make(kind, **kwargs)
    replace_sync_bn(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1, weight_decay=0.1)
    for _ in range(3):
        model.train()
        losses = model(make_batch())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        model.eval()(as_list(make_batch()))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    trunk = {name for name in before if name.startswith("backbone.")}
    heads = {name for name in before if name.startswith(("head.", "heads."))}
    assert heads <= changed
    if kind is ImageClassifier:
        assert changed == trunk | heads  # running statistics and counters too
    else:
        assert not changed & trunk  # not a bit, batch norm's statistics and counters included
        assert all(p.grad is None for p in model.backbone.parameters())
        model.train()
        assert model.training
        assert not any(module.training for module in model.backbone.modules())
    # batch norm of the probes: statistics move, the fixed weight 1 and bias 0 do not
    assert {n for n in changed if n.startswith("norms.") and n.endswith(("weight", "bias"))} == set()


def test_linear_classifier_against_plain_formulas():
    model = make(LinearClassifier).train()
    batch = make_batch()
    with EventStorage(0) as storage:
        (loss,) = model(batch).values()
    mean, std = (torch.tensor(PIXELS[name]).view(3, 1, 1) for name in ("pixel_mean", "pixel_std"))
    with torch.no_grad():
        features = model.backbone((batch["image"].float() - mean) / std)["res5"].mean((2, 3))
        logits = features @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch["label"]))
    best = logits.argmax(1) == batch["label"]
    assert storage.latest()["classifier/top1"][0] == pytest.approx(100 * best.float().mean().item())
    outputs = model.eval()(as_list(batch))
    torch.testing.assert_close(torch.stack([output["scores"] for output in outputs]), logits)
    torch.testing.assert_close(torch.stack([output["scores"] for output in model(batch)]), logits)
    extracted = make(PooledFeatures).eval()(as_list(batch))
    torch.testing.assert_close(torch.stack([output["features"] for output in extracted]), features)


def test_multi_stage_heads_are_standardised_and_independent():
    model = make(MultiStageClassifier, pooling="adaptive", norm="BN", stages=["conv1", "res5"]).train()
    batch = make_batch()
    losses = model(batch)
    assert sorted(losses) == ["loss_ce_conv1", "loss_ce_res5"]
    assert model.heads["conv1"].in_features == 64 * 144
    assert model.heads["res5"].in_features == 512 * 4
    (gradient,) = torch.autograd.grad(losses["loss_ce_conv1"], model.heads["conv1"].bias, retain_graph=True)
    assert gradient.abs().sum() > 0
    alone = torch.autograd.grad(losses["loss_ce_conv1"], model.heads["res5"].bias, allow_unused=True)
    assert alone == (None,)
    norm = model.norms["res5"]
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()
    assert not any(p.requires_grad for p in model.norms.parameters())
    (first, *_) = model.eval()(as_list(batch))
    assert {name: scores.shape for name, scores in first["scores"].items()} == {
        "conv1": (CLASSES,),
        "res5": (CLASSES,),
    }


def test_head_starts_as_published():
    torch.manual_seed(0)
    head = linear_head(2048, 1000)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert head.weight.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert not head.bias.any()


def test_loss_and_accuracy_by_hand():
    logits = torch.tensor([[2.0, 0, 0, 0, 0, 0, 1], [0.0, 1, 2, 3, 4, 5, 6], [1.0, 0, 0, 0, 0, 0, 9]])
    loss, metrics = classification_loss(logits, torch.tensor([0, 1, 0]))
    # places of the true classes: first, sixth, second
    assert metrics["top1"].item() == pytest.approx(100 / 3)
    assert metrics["top5"].item() == pytest.approx(200 / 3)
    expected = sum(row.exp().sum().log() - row[n] for row, n in zip(logits, (0, 1, 0))) / 3
    torch.testing.assert_close(loss, expected)
    assert classification_loss(logits[:, :2].half(), torch.tensor([0, 1, 0]))[0].dtype == torch.float32


def test_mistakes_and_registration():
    for name in ("ImageClassifier", "LinearClassifier", "MultiStageClassifier", "PooledFeatures"):
        assert name in META_ARCH_REGISTRY
    with pytest.raises(ConfigError, match="in_feature='res4': the backbone returns res5"):
        make(LinearClassifier, in_feature="res4")
    with pytest.raises(ConfigError, match="use some of conv1, res2"):
        make(MultiStageClassifier, stages=["stem"])
    with pytest.raises(ConfigError, match="pooling='max'"):
        make(MultiStageClassifier, pooling="max")
    with pytest.raises(ConfigError, match="build_resnet"):
        MultiStageClassifier(backbone=torch.nn.Identity(), num_classes=2, **PIXELS)
