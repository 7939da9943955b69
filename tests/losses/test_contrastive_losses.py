"""Losses against hand-worked numbers, naive forms and lightly's implementations."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from torch.testing import assert_close

from densessl.losses.cosine import feature_spread, negative_cosine
from densessl.losses.dense_info_nce import (
    dense_info_nce,
    dense_info_nce_with_metrics,
    distinct_match_share,
    match_dense,
)
from densessl.losses.info_nce import info_nce, info_nce_with_metrics, queue_logsumexp

torch.set_num_threads(1)


def unit(*shape, dim=1, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=dim)


def naive_info_nce(query, key, queue, temperature):
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.t()], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.int64))


def test_hand_worked_value():
    query = torch.tensor([[1.0, 0.0]])
    queue = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert_close(info_nce(query, query, queue, 1.0).item(), math.log(math.e + 2) - 1)


@pytest.mark.parametrize("chunk_elements", [1, 64, 10_000])
@pytest.mark.parametrize("temperature", [0.01, 0.2, 1.0])
def test_streamed_logsumexp_equals_naive_with_gradient(chunk_elements, temperature):
    query = unit(7, 16, dtype=torch.float64).requires_grad_()
    queue = unit(50, 16, seed=1, dtype=torch.float64)
    weights = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    lse, hardest = queue_logsumexp(query, queue, temperature, chunk_elements)
    (grad,) = torch.autograd.grad((lse * weights).sum(), query)
    expected = torch.logsumexp(query @ queue.t() / temperature, 1)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), query)
    assert_close(lse, expected, rtol=1e-12, atol=1e-12)
    assert_close(grad, expected_grad, rtol=1e-11, atol=1e-11)
    assert_close(hardest, (query @ queue.t()).amax(1).detach(), rtol=1e-12, atol=1e-12)
    assert not hardest.requires_grad


def test_gradcheck():
    queue = unit(9, 5, seed=1, dtype=torch.float64)
    key = unit(4, 5, seed=2, dtype=torch.float64)
    query = unit(4, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: info_nce(q, key, queue, 0.2), query)
    dense = unit(2, 5, 3, dtype=torch.float64).requires_grad_()
    dense_key = unit(2, 5, 6, seed=3, dtype=torch.float64)
    match = torch.tensor([[0, 5, 5], [2, 1, 0]])
    assert torch.autograd.gradcheck(lambda q: dense_info_nce(q, dense_key, match, queue, 0.2), dense)


def test_float32_value_and_gradient_equal_naive():
    query, key, queue = unit(6, 32).requires_grad_(), unit(6, 32, seed=1), unit(512, 32, seed=2)
    loss, expected = info_nce(query, key, queue, 0.07), naive_info_nce(query, key, queue, 0.07)
    assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    (grad,), (expected_grad,) = torch.autograd.grad(loss, query), torch.autograd.grad(expected, query)
    assert_close(grad, expected_grad, rtol=1e-5, atol=1e-6)


def test_extreme_logits_stay_finite():
    """Cosines of 1 at T = 0.001 are logits of 1000, beyond exp in float32."""
    query = unit(3, 8).requires_grad_()
    loss = info_nce(query, query.detach(), query.detach(), 0.001)
    loss.backward()
    assert_close(loss.item(), math.log(2), atol=1e-5, rtol=0)
    assert query.grad.isfinite().all()


def test_autocast_keeps_float32():
    query, key, queue = unit(6, 32).bfloat16(), unit(6, 32, seed=1).bfloat16(), unit(128, 32, seed=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, metrics = info_nce_with_metrics(query, key, queue, 0.2)
    assert loss.dtype == torch.float32
    assert_close(loss, info_nce(query.float(), key.float(), queue, 0.2), rtol=0, atol=0)
    assert all(value.dtype == torch.float32 for value in metrics.values())


def test_metrics_equal_their_definitions():
    query, key, queue = unit(20, 4), unit(20, 4, seed=1), unit(30, 4, seed=2)
    key[:10] = query[:10]
    _, metrics = info_nce_with_metrics(query, key, queue, 0.2)
    positive, negative = (query * key).sum(1), query @ queue.t()
    logits = torch.cat([positive[:, None], negative], 1)
    assert_close(metrics["accuracy"], (logits.argmax(1) == 0).float().mean())
    assert 0.4 < metrics["accuracy"] < 1
    assert_close(metrics["positive_cosine"], positive.mean())
    assert_close(metrics["negative_cosine"], negative.mean(), rtol=1e-5, atol=1e-7)


def test_memory_never_holds_all_logits(monkeypatch):
    """No tensor as large as rows x queue is made, forward or backward."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    query, key, queue = unit(4, 16, 49).requires_grad_(), unit(4, 16, 49, seed=1), unit(8192, 16, seed=2)
    match = torch.arange(49).expand(4, -1)
    with Watch():
        dense_info_nce(query, key, match, queue, 0.2).backward()
    assert largest <= 2**18  # one chunk; rows x queue would be 4 * 49 * 8192 = 1.6e6


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="must be equal"):
        info_nce(unit(3, 4), unit(2, 4), unit(5, 4), 0.2)
    with pytest.raises(ValueError, match="K >= 1"):
        info_nce(unit(3, 4), unit(3, 4), unit(5, 3), 0.2)
    with pytest.raises(ValueError, match="K >= 1"):
        info_nce(unit(3, 4), unit(3, 4), torch.zeros(0, 4), 0.2)
    with pytest.raises(ValueError, match="detach"):
        info_nce(unit(3, 4), unit(3, 4), unit(5, 4).requires_grad_(), 0.2)
    with pytest.raises(ValueError, match="do not fit"):
        match_dense(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4))


@pytest.mark.parametrize("temperature", [0.1, 0.2])
def test_equals_lightly_memory_bank(temperature):
    """lightly's NTXentLoss with a memory bank is the MoCo loss; it normalises its input itself."""
    oracle = NTXentLoss(temperature=temperature, memory_bank_size=(64, 16))
    raw, key = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), unit(6, 16, seed=1)
    oracle(raw, key)  # fills 6 of 64
    queue = oracle.memory_bank.bank.clone()
    assert queue.shape == (64, 16)
    raw.requires_grad_()
    expected = oracle(raw, key)
    loss = info_nce(F.normalize(raw, dim=1), key, queue, temperature)
    assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    (grad,), (expected_grad,) = torch.autograd.grad(loss, raw), torch.autograd.grad(expected, raw)
    assert_close(grad, expected_grad, rtol=1e-4, atol=1e-6)


def test_dense_loss_equals_a_loop():
    query, key, queue = unit(2, 8, 5), unit(2, 8, 7, seed=1), unit(11, 8, seed=2)
    match = torch.tensor([[0, 6, 6, 2, 1], [3, 3, 3, 3, 5]])
    total = 0.0
    for n in range(2):
        for s in range(5):
            q = query[n, :, s]
            scores = [q @ key[n, :, match[n, s]], *(q @ u for u in queue)]
            total += math.log(sum(math.exp(x / 0.2) for x in scores)) - scores[0].item() / 0.2
    loss, metrics = dense_info_nce_with_metrics(query, key, match, queue, 0.2)
    assert_close(loss.item(), total / 10, rtol=1e-5, atol=1e-6)
    assert set(metrics) == {"accuracy", "positive_cosine", "negative_cosine"}


def test_match_finds_a_permutation_and_ignores_lengths():
    permutation = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    keys = unit(2, 32, 9)
    queries = keys[:, :, permutation] * torch.rand(2, 1, 9, generator=torch.Generator().manual_seed(1))
    lengths = torch.rand(2, 1, 9, generator=torch.Generator().manual_seed(2)) * 10 + 0.1
    assert torch.equal(match_dense(queries, keys * lengths), permutation.expand(2, -1))
    cosine = F.normalize(queries, dim=1).transpose(1, 2) @ keys
    assert torch.equal(match_dense(queries, keys * lengths), cosine.argmax(2))


def test_distinct_match_share():
    match = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]])
    assert_close(distinct_match_share(match, 6).item(), (1 / 4 + 1) / 2)


def test_initial_loss_of_perfect_positives():
    """Cosine 1 with the positive and random negatives: ln(1 + K e^{1 / (2 D T^2)} / e^{1 / T}) = 6.19."""
    length, dim, temperature = 65536, 128, 0.2
    query, queue = unit(16, dim), unit(length, dim, seed=1)
    expected = math.log(1 + length * math.exp(1 / (2 * dim * temperature**2)) / math.exp(1 / temperature))
    assert abs(expected - 6.19) < 0.005
    assert abs(info_nce(query, query, queue, temperature).item() - expected) < 0.02


def test_chance_level_is_log_of_candidates():
    same = torch.ones(3, 4) / 2
    assert_close(info_nce(same, same, same[:1].expand(7, -1).contiguous(), 0.2).item(), math.log(8))


def test_negative_cosine():
    assert_close(negative_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])).item(), -0.6)
    prediction = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = negative_cosine(prediction, target)
    assert_close(loss, NegativeCosineSimilarity()(prediction, target.detach()), rtol=1e-6, atol=1e-6)
    loss.backward()
    assert target.grad is None
    assert prediction.grad is not None


def test_feature_spread_shows_collapse():
    spread = feature_spread(torch.randn(512, 32, generator=torch.Generator().manual_seed(0)))
    assert abs(spread["std"].item() - 1) < 0.02
    assert spread["effective_rank"] > 28
    collapsed = feature_spread(torch.ones(512, 32))
    assert collapsed["std"] < 1e-6
    line = feature_spread(torch.randn(512, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(32))
    assert_close(line["effective_rank"].item(), 1.0, rtol=1e-4, atol=0)
