"""The order of the samples: exact sequences, closed forms, and equality of any resume with the whole."""

from itertools import islice

import numpy as np
import pytest

from densessl.data.samplers import (
    AspectRatioBatchSampler,
    EpochOrder,
    StepBatchSampler,
    replacement_indices,
    sample_seed,
)
from densessl.errors import ConfigError

# order of epochs 0 and 1, a sample's seed, replacements: of seed 3
FROZEN = ([0, 4, 7, 1, 5, 6, 3, 2], [0, 6, 2, 1, 3, 7, 4, 5], 1636926441038586439, [0, 7, 0, 1])


def take(sampler: StepBatchSampler, count: int, start: int = 0) -> list[list[tuple[int, int]]]:
    sampler.start_step = start
    return list(islice(iter(sampler), count))


def test_the_order_is_frozen() -> None:
    # recorded once: a change of these numbers breaks the resume of every run in progress
    assert EpochOrder(8, 3).indices(0).tolist() == FROZEN[0]
    assert EpochOrder(8, 3).indices(1).tolist() == FROZEN[1]
    assert sample_seed(3, 1, 5) == FROZEN[2]
    assert replacement_indices(3, 1, 5, 8, 4) == FROZEN[3]


def test_epochs_and_seeds_permute_differently() -> None:
    orders = {tuple(EpochOrder(50, seed).indices(epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert all(sorted(order) == list(range(50)) for order in orders)
    seeds = {sample_seed(s, e, i) for s in range(5) for e in range(5) for i in range(40)}
    assert len(seeds) == 1000


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize(("images", "batch"), [(10, 4), (8, 4), (3, 4), (1, 4), (12, 12)])
def test_closed_form(images: int, batch: int, drop_last: bool) -> None:
    order = EpochOrder(images, 7)
    kept = images // batch * batch if drop_last and images >= batch else images
    for world, accumulate in [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)]:
        split = {"world_size": world, "accumulate": accumulate, "drop_last": drop_last}
        part = batch // (world * accumulate)
        for rank in range(world):
            for start in (0, 3):
                got = take(StepBatchSampler(order, batch, rank=rank, **split), 5 * accumulate, start)
                for number, pairs in enumerate(got):
                    step, micro = start + number // accumulate, number % accumulate
                    first = step * batch + micro * (batch // accumulate) + rank * part
                    places = range(first, first + part)
                    expected = [(p // kept, int(order.indices(p // kept)[p % kept])) for p in places]
                    assert pairs == expected


def test_ranks_and_micro_batches_make_up_the_step() -> None:
    order = EpochOrder(40, 0)
    whole = take(StepBatchSampler(order, 8), 6)
    for world, accumulate in [(2, 1), (2, 2), (1, 4), (4, 2)]:
        split = {"world_size": world, "accumulate": accumulate}
        samplers = [StepBatchSampler(order, 8, rank=rank, **split) for rank in range(world)]
        parts = [take(sampler, 6 * accumulate) for sampler in samplers]
        for step, pairs in enumerate(whole):
            micro = range(step * accumulate, (step + 1) * accumulate)
            assert [pair for a in micro for rank in range(world) for pair in parts[rank][a]] == pairs


@pytest.mark.parametrize(
    ("images", "drop_last", "steps"), [(10, True, 2), (10, False, 3), (3, True, 1), (8, False, 2)]
)
def test_steps_per_epoch(images: int, drop_last: bool, steps: int) -> None:
    assert StepBatchSampler(EpochOrder(images, 0), 4, drop_last=drop_last).steps_per_epoch == steps


@pytest.mark.parametrize(
    ("batch", "world", "accumulate", "numbers"),
    [
        (10, 2, 3, ("10", "2 process", "3", "6 or 12")),
        (2, 4, 1, ("2", "4 process", "to 4")),
        (0, 1, 1, ("= 0",)),
    ],
)
def test_batches_that_cannot_be_divided(
    batch: int, world: int, accumulate: int, numbers: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        StepBatchSampler(EpochOrder(100, 0), batch, world_size=world, accumulate=accumulate)
    assert all(number in str(error.value) for number in numbers)


def test_negative_seed() -> None:
    with pytest.raises(ConfigError, match="seed = -1"):
        EpochOrder(4, -1)


def groups_of(images: int) -> np.ndarray:
    return (np.arange(images) % 3 == 0).astype(np.uint8)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (2, 2)])
def test_aspect_groups_resume_and_completeness(world: int, accumulate: int) -> None:
    images, batch, steps = 23, 8, 20
    order, groups = EpochOrder(images, 5), groups_of(images)
    split = {"world_size": world, "accumulate": accumulate}
    every = []
    for rank in range(world):
        sampler = AspectRatioBatchSampler(order, groups, batch, rank=rank, **split)
        whole = take(sampler, steps * accumulate)
        every += whole
        for start in (1, 7, 13):
            assert (
                take(sampler, 3 * accumulate, start) == whole[start * accumulate : (start + 3) * accumulate]
            )
        for pairs in whole:
            assert len(pairs) == batch // (world * accumulate)
            assert len({groups[index] for _, index in pairs}) == 1
    used = [pair for pairs in every for pair in pairs]
    assert len(set(used)) == len(used)
    # nothing is dropped: all but the last epochs, still in the buckets, are complete
    for epoch in range(steps * batch // images - 2):
        assert sorted(index for e, index in used if e == epoch) == list(range(images))


def test_aspect_groups_against_a_plain_loop() -> None:
    order, groups, size = EpochOrder(11, 2), groups_of(11), 3
    buckets, expected = {0: [], 1: []}, []
    for epoch in range(12):
        for index in order.indices(epoch).tolist():
            bucket = buckets[groups[index]]
            bucket.append((epoch, index))
            if len(bucket) == size:
                expected.append(list(bucket))
                bucket.clear()
    assert take(AspectRatioBatchSampler(order, groups, size), len(expected)) == expected


def test_repeat_factors() -> None:
    factors = np.array([1.0, 2.0, 1.5, 0.25] * 50)
    order = EpochOrder(200, 1, factors)
    counts = np.zeros((40, 200))
    for epoch in range(40):
        indices = order.indices(epoch)
        assert len(set(indices.tolist())) == len(indices)  # repetitions have indices of their own
        counts[epoch] = np.bincount(indices % 200, minlength=200)
    assert (counts[:, 0::4] == 1).all()
    assert (counts[:, 1::4] == 2).all()
    assert set(counts[:, 2::4].ravel()) == {1, 2}
    assert abs(counts[:, 2::4].mean() - 1.5) < 0.05
    assert abs(counts[:, 3::4].mean() - 0.25) < 0.05
    assert not (counts[0] == counts[1]).all()


def test_repeat_factors_resume_across_epochs_of_unequal_length() -> None:
    sampler = StepBatchSampler(EpochOrder(9, 1, np.full(9, 1.4)), 4, accumulate=2)
    whole = take(sampler, 40)
    assert len({len(sampler.order.indices(epoch)) for epoch in range(8)}) > 1
    for start in (0, 1, 9, 17):
        assert take(sampler, 4, start) == whole[2 * start : 2 * start + 4]
