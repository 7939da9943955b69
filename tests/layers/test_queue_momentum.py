"""Queue, momentum copy and batch shuffle in one process."""

import pytest
import torch
from detectron2.layers import NaiveSyncBatchNorm
from torch import nn
from torch.testing import assert_close

from densessl.layers.batch_shuffle import BatchShuffle, ShufflePlan, uses_plain_batch_norm
from densessl.layers.momentum import momentum_copy, update_momentum_copy
from densessl.layers.queue import enqueue, gather_keys, register_queue

torch.set_num_threads(1)


class Owner(nn.Module):
    def __init__(self, size=6, dim=3, seed=0):
        super().__init__()
        register_queue(self, "queue", size, dim, seed)


def keys(first, count, dim=3):
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(count, dim)


def test_queue_starts_with_equal_unit_vectors_on_every_rank():
    assert_close(Owner().queue.norm(dim=1), torch.ones(6))
    assert torch.equal(Owner().queue, Owner().queue)
    assert not torch.equal(Owner().queue, Owner(seed=1).queue)
    assert set(Owner().state_dict()) == {"queue", "queue_ptr", "queue_filled"}


def test_queue_wraps():
    owner = Owner()
    start = owner.queue.clone()
    enqueue(owner, "queue", keys(0, 4))
    assert owner.queue_ptr.item() == 4
    assert owner.queue_filled.item() == 4
    assert torch.equal(owner.queue[:4], keys(0, 4))
    assert torch.equal(owner.queue[4:], start[4:])
    enqueue(owner, "queue", keys(4, 4))
    assert owner.queue_ptr.item() == 2
    assert owner.queue_filled.item() == 6
    assert torch.equal(owner.queue[:, 0], torch.tensor([6.0, 7, 2, 3, 4, 5]))


def test_queue_refuses_more_keys_than_it_holds():
    with pytest.raises(ValueError, match="7 keys do not fit in a queue of 6"):
        enqueue(Owner(), "queue", keys(0, 7))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_skip_changes_nothing_even_with_nan_keys(dtype):
    owner = Owner()
    before = {name: value.clone() for name, value in owner.state_dict().items()}
    enqueue(owner, "queue", torch.full((4, 3), torch.nan), skip=torch.tensor(1).to(dtype))
    for name, value in owner.state_dict().items():
        assert torch.equal(value, before[name])
    enqueue(owner, "queue", keys(0, 4), skip=torch.tensor(0).to(dtype))
    assert torch.equal(owner.queue[:4], keys(0, 4))
    assert owner.queue_ptr.item() == 4


def test_gather_of_micro_batches_keeps_their_order():
    assert torch.equal(gather_keys([keys(0, 2), keys(2, 2)]), keys(0, 4))


def test_momentum_update():
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    averaged = momentum_copy(source)
    assert not any(parameter.requires_grad for parameter in averaged.parameters())
    nn.init.constant_(source[0].weight, 2.0)
    before = averaged[0].weight.clone()
    source[1].running_mean.fill_(5.0)
    update_momentum_copy(averaged, source, 0.9)
    assert_close(averaged[0].weight, 0.9 * before + 0.1 * 2.0)
    assert averaged[1].running_mean.eq(0).all()  # statistics stay the copy's own
    update_momentum_copy(averaged, source, 0.9, copy_buffers=True)
    assert averaged[1].running_mean.eq(5).all()


def test_momentum_of_one_freezes_and_zero_copies():
    source = nn.Linear(3, 4)
    averaged = momentum_copy(source)
    frozen = averaged.weight.clone()
    nn.init.normal_(source.weight)
    update_momentum_copy(averaged, source, 1.0)
    assert torch.equal(averaged.weight, frozen)
    update_momentum_copy(averaged, source, 0.0)
    assert torch.equal(averaged.weight, source.weight)


def test_momentum_skip():
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    averaged, reference = momentum_copy(source), momentum_copy(source)
    nn.init.normal_(source[0].weight)
    frozen = averaged[0].weight.clone()
    source[1].running_mean.fill_(5.0)
    update_momentum_copy(averaged, source, 0.9, skip=torch.tensor(True), copy_buffers=True)
    assert torch.equal(averaged[0].weight, frozen)
    assert averaged[1].running_mean.eq(0).all()
    update_momentum_copy(averaged, source, 0.9, skip=torch.tensor(False))
    update_momentum_copy(reference, source, 0.9)
    assert_close(averaged[0].weight, reference[0].weight)


def test_plain_batch_norm_is_told_from_synchronised():
    assert uses_plain_batch_norm(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    for norm in (nn.SyncBatchNorm(3), NaiveSyncBatchNorm(3), nn.GroupNorm(1, 3), nn.Identity()):
        assert not uses_plain_batch_norm(nn.Sequential(norm))


def test_shuffle_draws_continue_after_a_reload():
    first = BatchShuffle(seed=5)
    draws = [first.draw(8).send_rows for _ in range(3)]
    assert not torch.equal(draws[0], draws[1])
    second = BatchShuffle(seed=0)
    third = BatchShuffle(seed=5)
    third.draw(8)
    second.load_state_dict(third.state_dict())
    assert torch.equal(second.draw(8).send_rows, draws[1])
    assert torch.equal(second.draw(8).send_rows, draws[2])


@pytest.mark.parametrize("world_size", [2, 3])
def test_plans_of_all_ranks_fit_together(world_size, monkeypatch):
    """All ranks simulated: every row goes to the rank that the permutation names, and comes back."""
    rows = 4
    permutation = torch.randperm(world_size * rows, generator=torch.Generator().manual_seed(3))
    plans = [ShufflePlan(permutation, rank, world_size) for rank in range(world_size)]
    batch = torch.arange(world_size * rows).view(world_size, rows)

    def exchange(outgoing, sent):
        blocks = [list(out.split(counts)) for out, counts in zip(outgoing, sent, strict=True)]
        return [
            torch.cat([blocks[source][rank] for source in range(world_size)]) for rank in range(world_size)
        ]

    sent = [plan.send_counts for plan in plans]
    arrived = exchange([batch[rank][plan.send_rows] for rank, plan in enumerate(plans)], sent)
    shuffled = [torch.empty_like(x).index_copy_(0, p.slots, x) for x, p in zip(arrived, plans, strict=True)]
    assert torch.equal(torch.cat(shuffled), permutation)
    received = [plan.receive_counts for plan in plans]
    assert [x.shape[0] for x in arrived] == [sum(counts) for counts in received]
    back = exchange([x[p.slots] for x, p in zip(shuffled, plans, strict=True)], received)
    restored = [torch.empty_like(x).index_copy_(0, p.send_rows, x) for x, p in zip(back, plans, strict=True)]
    assert torch.equal(torch.stack(restored), batch)
