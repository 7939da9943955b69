"""Which image is loaded when: endless batch samplers whose order is a function of (seed, step) alone.

Position p of the stream (p = 0, 1, ...) is image `indices(p // L)[p % L]` of epoch `p // L`, where L is
the kept length of an epoch. Optimiser step t of global batch B consumes positions [t B, (t + 1) B);
micro-batch a of rank r is the contiguous part of length m = B / (accumulate * world size) that starts at
a * (B / accumulate) + r * m. Hence the step number is the whole state of a sampler: resuming at step t
needs nothing else, and neither worker count nor prefetching can matter.

Permutations are the order of raw PCG64 words. numpy freezes the streams of bit generators and of
`SeedSequence` but not those of `Generator.permutation` (NEP 19), so a run resumed under another numpy
still sees the same order.

Letters: N images, B global batch per optimiser step, m images per rank and micro-batch.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from densessl.errors import ConfigError, DataError

Pairs = list[tuple[int, int]]  # (epoch, index)

# What a stream of random words is for; keeps the streams of one (seed, epoch) apart.
_PERMUTATION, _REPEATS, _REPLACEMENT = 0, 1, 2


def random_words(seed: int, *key: int, count: int) -> np.ndarray:
    """uint64 (count,): raw PCG64 words, a frozen function of the seed and the non-negative key."""
    return np.random.PCG64(np.random.SeedSequence((seed, *key))).random_raw(count)


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """64-bit seed of everything random about sample `index` of `epoch`."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0])


def replacement_indices(seed: int, epoch: int, index: int, num_images: int, count: int) -> list[int]:
    """`count` images to try in place of an unreadable one: a function of (seed, epoch, index)."""
    words = random_words(seed, epoch, _REPLACEMENT, index, count=count)
    return [int(word) for word in words % np.uint64(num_images)]


class EpochOrder:
    """The sequence of image indices of each epoch.

    With `repeat_factors` (LVIS, arXiv:1908.03195, Appendix B) image i occurs floor(f_i) times in an epoch
    and once more with probability f_i - floor(f_i), drawn per epoch. Its k-th repetition has index
    i + k * N, so that every repetition has its own augmentations; the image is `index % N`.
    detectron2's RepeatFactorTrainingSampler draws from a running generator, which cannot be resumed.
    """

    def __init__(self, num_images: int, seed: int, repeat_factors: np.ndarray | None = None):
        """
        Args:
            num_images: N > 0.
            seed: >= 0, equal on all ranks.
            repeat_factors: float (N,), >= 0 with a positive sum; None: every image once.
        """
        if seed < 0:
            raise ConfigError(f"seed = {seed} must not be negative: train.seed seeds the order of the images")
        self.num_images, self.seed = num_images, seed
        self.repeat_factors = None if repeat_factors is None else np.asarray(repeat_factors, np.float64)
        if self.repeat_factors is not None and self.repeat_factors.shape != (num_images,):
            raise ConfigError(f"{self.repeat_factors.shape} repeat factors for {num_images} images")

    @property
    def length(self) -> float:
        """Images per epoch; the expected number where repetitions are drawn."""
        return self.num_images if self.repeat_factors is None else float(self.repeat_factors.sum())

    def indices(self, epoch: int) -> np.ndarray:
        """int64 (length of this epoch,): indices in the order of use."""
        if self.repeat_factors is None:
            indices = np.arange(self.num_images)
        else:
            uniform = (random_words(self.seed, epoch, _REPEATS, count=self.num_images) >> 11) * 2.0**-53
            whole = np.floor(self.repeat_factors)
            times = (whole + (uniform < self.repeat_factors - whole)).astype(np.int64)
            indices = np.repeat(np.arange(self.num_images), times)
            repetition = np.arange(len(indices)) - np.repeat(np.cumsum(times) - times, times)
            indices = indices + repetition * self.num_images
        words = random_words(self.seed, epoch, _PERMUTATION, count=len(indices))
        return indices[np.argsort(words, kind="stable")]


class StepBatchSampler:
    """Yields the (epoch, index) pairs of this rank's micro-batches, endlessly, from `start_step` on."""

    def __init__(
        self,
        order: EpochOrder,
        total_batch_size: int,
        *,
        world_size: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        drop_last: bool = True,
    ):
        """
        Args:
            order: image indices of each epoch.
            total_batch_size: B, all ranks and micro-batches included.
            world_size, rank: of the process group.
            accumulate: micro-batches per optimiser step.
            drop_last: leave out the last N % B images of each epoch's permutation (others in each epoch),
                so that no step spans two epochs; without effect if N < B.

        Raises:
            ConfigError: B cannot be divided evenly.
        """
        check_batch(total_batch_size, world_size, accumulate)
        self.order, self.total_batch_size, self.drop_last = order, total_batch_size, drop_last
        self.world_size, self.rank, self.accumulate = world_size, rank, accumulate
        self.micro_batch_size = total_batch_size // (world_size * accumulate)
        self.start_step = 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per pass over the images, at least 1; rounded up if nothing is dropped."""
        steps = self.order.length / self.total_batch_size
        return max(1, int(steps) if self.drop_last else -int(-steps // 1))

    def _kept(self, epoch: int) -> np.ndarray:
        indices = self.order.indices(epoch)
        batch = self.total_batch_size
        return (
            indices[: len(indices) // batch * batch] if self.drop_last and len(indices) >= batch else indices
        )

    def _locate(self, position: int) -> tuple[int, int]:
        """Epoch and offset in it of a stream position."""
        if self.order.repeat_factors is None:
            return divmod(position, len(self._kept(0)))
        epoch = 0  # lengths differ between epochs: count through them
        while position >= (length := len(self._kept(epoch))):
            position, epoch = position - length, epoch + 1
        return epoch, position

    def __iter__(self) -> Iterator[Pairs]:
        epoch, offset = self._locate(self.start_step * self.total_batch_size)
        indices = self._kept(epoch)
        while True:
            batch: Pairs = []
            while len(batch) < self.total_batch_size:
                if offset >= len(indices):
                    epoch, offset = epoch + 1, 0
                    indices = self._kept(epoch)
                taken = indices[offset : offset + self.total_batch_size - len(batch)].tolist()
                batch += [(epoch, index) for index in taken]
                offset += len(taken)
            for micro in range(self.accumulate):
                start = (micro * self.world_size + self.rank) * self.micro_batch_size
                yield batch[start : start + self.micro_batch_size]


class AspectRatioBatchSampler(StepBatchSampler):
    """As StepBatchSampler, but all images of a micro-batch lie in one group (landscape or portrait).

    The stream of all epochs is dealt into one bucket per group; a bucket that holds m images is emitted,
    and unit u = (t * accumulate + a) * world_size + r goes to micro-batch a of step t on rank r. What is
    left at the end of an epoch stays in its bucket, so nothing is dropped. detectron2 groups after loading
    and loses the buckets when a run stops; here grouping works on indices and is replayed from the start
    of the stream (0.02 s per pass over COCO), so a resume is exact.
    """

    def __init__(self, order: EpochOrder, groups: np.ndarray, total_batch_size: int, **kwargs):
        """
        Args:
            groups: integer (N,), the group of each image.
            order, total_batch_size, kwargs: see StepBatchSampler.
        """
        super().__init__(order, total_batch_size, **kwargs)
        self.groups = np.asarray(groups)

    def _units(self) -> Iterator[np.ndarray]:
        """int64 (m, 2) pairs (epoch, index) of one group, in the order in which the buckets fill up."""
        size = self.micro_batch_size
        left = {group: np.empty((0, 2), np.int64) for group in np.unique(self.groups).tolist()}
        epoch = 0
        while True:
            indices = self.order.indices(epoch)
            groups = self.groups[indices % self.order.num_images]
            full: list[tuple[int, np.ndarray]] = []  # (position of the last member, members)
            for group, carried in left.items():
                where = np.flatnonzero(groups == group)
                new = np.stack([np.full(len(where), epoch), indices[where]], axis=1)
                pairs = np.concatenate([carried, new])
                units = len(pairs) // size
                last = where[np.arange(1, units + 1) * size - len(carried) - 1].tolist()
                full += zip(last, pairs[: units * size].reshape(units, size, 2))
                left[group] = pairs[units * size :]
            yield from (unit for _, unit in sorted(full, key=lambda item: item[0]))
            epoch += 1

    def __iter__(self) -> Iterator[Pairs]:
        first = self.start_step * self.accumulate * self.world_size + self.rank
        for unit in islice(self._units(), first, None, self.world_size):
            yield [(epoch, index) for epoch, index in unit.tolist()]


def check_batch(total_batch_size: int, world_size: int, accumulate: int) -> None:
    """Raises ConfigError unless every rank gets the same whole number of images in every micro-batch."""
    parts = world_size * accumulate
    if total_batch_size < 1 or accumulate < 1:
        raise ConfigError(
            f"total_batch_size = {total_batch_size} and accumulate = {accumulate} must be positive"
        )
    if total_batch_size % parts:
        below = total_batch_size // parts * parts
        choice = f"{below} or {below + parts}" if below else f"{parts}"
        raise ConfigError(
            f"total_batch_size = {total_batch_size} is not divisible by {world_size} process(es) x "
            f"train.accumulate = {accumulate}: set dataloader.train.total_batch_size to {choice}"
        )


def check_not_empty(num_images: int, what: str) -> None:
    """Raises DataError if there is nothing to train on."""
    if num_images == 0:
        raise DataError(f"{what} holds 0 images: check the path and the file extensions")
