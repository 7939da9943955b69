"""Losses of PiCIE and MDC against recorded values and gradients; balances; cells without label."""

import math

import pytest
import torch
import torch.nn.functional as F
from cluster_golden import golden, tensors

from densessl.errors import ConfigError
from densessl.losses.cluster_ce import (
    ClusterTarget,
    balance_weights,
    cluster_cross_entropy,
    dot_logits,
    within_across_losses,
)
from densessl.modeling.heads import ClusterClassifier


def recorded(balanced: bool):
    arrays = golden("picie_loss_s0")
    raw = [x.requires_grad_() for x in tensors(arrays, "in/feat1", "in/feat2")]
    targets = tuple(
        ClusterTarget(*tensors(arrays, f"in/centroids{v}", f"in/label{v}"), weight if balanced else None)
        for v, weight in enumerate(tensors(arrays, "in/weight1", "in/weight2"), 1)
    )
    return arrays, raw, tuple(F.normalize(x, dim=1) for x in raw), targets


@pytest.mark.parametrize("case", ["balanced", "plain"])
def test_recorded_losses_and_gradients(case):
    arrays, raw, features, targets = recorded(case == "balanced")
    for name, (view, target) in {"11": (0, 0), "12": (0, 1), "21": (1, 0), "22": (1, 1)}.items():
        logits = dot_logits(features[view], targets[target].centroids)
        loss = cluster_cross_entropy(logits, targets[target].labels, targets[target].weight)
        assert float(loss.detach()) == pytest.approx(float(arrays[f"out/{case}/loss{name}"]), abs=1e-6)
    within, across = within_across_losses(features, targets)
    assert float(within.detach()) == pytest.approx(float(arrays[f"out/{case}/within"]), abs=1e-6)
    assert float(across.detach()) == pytest.approx(float(arrays[f"out/{case}/across"]), abs=1e-6)
    total = (within + across) / 2
    assert float(total.detach()) == pytest.approx(float(arrays[f"out/{case}/total"]), abs=1e-6)
    total.backward()
    for x, name in zip(raw, ("grad_feat1", "grad_feat2")):
        assert x.grad.numpy() == pytest.approx(arrays[f"out/{case}/{name}"], abs=1e-8, rel=1e-4)


def test_recorded_loss_with_distance_of_the_views():
    arrays, raw, features, targets = recorded(balanced=True)
    within, across = within_across_losses(features, targets)
    mse = F.mse_loss(*features)
    total = ((within + across) / 2 + mse) / 2
    assert float(mse.detach()) == pytest.approx(float(arrays["out/balanced_mse/mse"]), abs=1e-6)
    assert float(total.detach()) == pytest.approx(float(arrays["out/balanced_mse/total"]), abs=1e-6)
    total.backward()
    for x, name in zip(raw, ("grad_feat1", "grad_feat2")):
        assert x.grad.numpy() == pytest.approx(arrays[f"out/balanced_mse/{name}"], abs=1e-8, rel=1e-4)


def test_halves_of_densesiams_version():
    arrays, _, features, targets = recorded(balanced=True)
    within, across = within_across_losses(features, targets)
    assert float((within / 2).detach()) == pytest.approx(
        float(arrays["out/densesiam_reimpl/loss_within"]), abs=1e-6
    )
    assert float((across / 2).detach()) == pytest.approx(
        float(arrays["out/densesiam_reimpl/loss_cross"]), abs=1e-6
    )


def test_recorded_steps_of_mdc():
    """The features are a parameter too, as the network's Adam sees them."""
    arrays = golden("mdc_s0")
    feature, label, weight, start, bias = tensors(
        arrays, "in/feat", "in/label", "in/weight", "in/W0", "in/b0"
    )
    feature = feature.clone().requires_grad_()
    head = ClusterClassifier(in_channels=start.shape[1], num_clusters=len(start))
    head.predictor.weight.data.copy_(start)
    head.predictor.bias.data.copy_(bias)
    options = {
        "lr": float(arrays["hp/lr"]),
        "betas": tuple(arrays["hp/betas"]),
        "eps": float(arrays["hp/eps"]),
    }
    optimizer = torch.optim.Adam([{"params": [feature]}, {"params": head.parameters()}], **options)
    for step, expected in enumerate(arrays["out/losses"]):
        loss = cluster_cross_entropy(head(F.normalize(feature, dim=1)), label, weight)
        assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {"W": head.predictor.weight, "b": head.predictor.bias, "feat": feature}
            for name, parameter in gradients.items():
                known = arrays[f"out/grad_{name}_step1"]
                assert parameter.grad.numpy() == pytest.approx(known, abs=1e-8, rel=1e-4)
        optimizer.step()
        assert head.predictor.weight.detach().numpy() == pytest.approx(arrays["out/W"][step], abs=1e-6)
        assert head.predictor.bias.detach().numpy() == pytest.approx(arrays["out/b"][step], abs=1e-6)
    assert feature.detach().numpy() == pytest.approx(arrays["out/feat_final"], abs=1e-5)


def test_classifier_starts_anew_with_a_seed():
    head = ClusterClassifier(in_channels=64, num_clusters=50)
    first = head.predictor.weight.detach().clone()
    assert float(first.std()) == pytest.approx(0.01, rel=0.1)
    head.predictor.bias.data += 1
    head.reset(seed=7)
    assert not torch.equal(head.predictor.weight, first)
    assert not head.predictor.bias.any()
    again = ClusterClassifier(in_channels=64, num_clusters=50)
    again.reset(seed=7)
    assert torch.equal(head.predictor.weight, again.predictor.weight)


def test_cells_without_label_do_not_count():
    logits = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.randint(0, 4, (2, 3, 3), generator=torch.Generator().manual_seed(1))
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4])
    labels[1] = 255
    some = cluster_cross_entropy(logits, labels, weight)
    assert float(some.detach()) == pytest.approx(
        float(F.cross_entropy(logits[:1], labels[:1], weight).detach()), rel=1e-6
    )
    labels[:] = 255
    for chosen in (weight, None):
        nothing = cluster_cross_entropy(logits, labels.byte(), chosen)
        assert float(nothing.detach()) == 0.0
        (gradient,) = torch.autograd.grad(nothing, logits)
        assert not gradient.any()


def test_balances_by_hand():
    counts = torch.tensor([6, 0, 2, 4])
    assert balance_weights(counts).tolist() == pytest.approx([0.5, 0, 1 / 6, 1 / 3])
    assert balance_weights(counts, "inverse").tolist() == pytest.approx([0.5, 0, 1.5, 0.75])
    assert balance_weights(counts, "none").tolist() == [1, 1, 1, 1]
    assert balance_weights(torch.zeros(2, dtype=torch.int64)).tolist() == [0, 0]
    with pytest.raises(ConfigError, match="model.balance='even'"):
        balance_weights(counts, "even")


def test_floor_of_the_loss_with_orthogonal_centroids():
    """ln(1 + 26 / e) = 2.36 for 27 clusters: why published losses stop at 2.44."""
    centroids = torch.eye(27)
    features = centroids[:, :, None, None]  # every cell lies on its centroid
    labels = torch.arange(27)[:, None, None]
    loss = cluster_cross_entropy(dot_logits(features, centroids), labels)
    assert float(loss.detach()) == pytest.approx(math.log(1 + 26 / math.e), rel=1e-6)
