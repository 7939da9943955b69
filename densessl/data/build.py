"""The training loader: exact order, exact resume, the same bits for every number of workers.

    records (list[dict] or ImageSource) -> TrainDataset (mapper, per-sample seed, unreadable images)
    -> StepBatchSampler -> torch DataLoader -> ResumableLoader (micro-batches of this rank)

Every random number of a sample is a function of (seed, epoch, index), and the order one of (seed, step):
see densessl/data/samplers.py. detectron2's `build_detection_train_loader` restarts its permutation at every
resume and seeds its augmentations per worker.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from densessl.data.bad_images import FILE_NAME, BadImageLog
from densessl.data.decode import printable
from densessl.data.records import check_same_on_all_ranks, names_digest, pack_records
from densessl.data.samplers import (
    AspectRatioBatchSampler,
    EpochOrder,
    StepBatchSampler,
    check_not_empty,
    replacement_indices,
)
from densessl.data.workers import (
    BatchDataset,
    CarriedError,
    explain_failure,
    identity,
    init_worker,
    named_worker_deaths,
    sample_rng,
)
from densessl.errors import ConfigError, DataError

# Other images tried for one sample before it is taken that something larger is wrong.
MAX_REPLACEMENTS = 20

logger = logging.getLogger(__name__)


class TrainDataset(Dataset):
    """Maps (epoch, index) to a training sample, with all randomness a function of (seed, epoch, index).

    A mapper with attribute `needs_rng = True` is called `mapper(record, rng=numpy.random.Generator)`; any
    other, detectron2's DatasetMapper for one, `mapper(record)` with python's, numpy's and torch's CPU
    generators seeded. A mapper that returns None (detectron2's way to refuse a record) gets another image,
    drawn as for "replace". Returned dicts receive "sample": (epoch, index); after a replacement,
    "file_name" and "image_id" are those of the image that was read.
    """

    def __init__(
        self,
        records: Sequence[dict],
        mapper: Callable[..., Any],
        *,
        seed: int,
        bad_image: str = "raise",
        max_bad_fraction: float = 0.05,
    ):
        """
        Args:
            records: d2 dataset dicts, or an ImageSource.
            mapper: from a record to a sample.
            seed: of the run, equal on all ranks.
            bad_image, max_bad_fraction: see BadImageLog.
        """
        self.records, self.mapper, self.seed = records, mapper, seed
        self.bad_images = BadImageLog(len(records), bad_image, max_bad_fraction)
        self._needs_rng = bool(getattr(mapper, "needs_rng", False))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, pair: tuple[int, int]) -> Any:
        """The sample at (epoch, index); `index` beyond N is a repetition of image `index % N`.

        Raises:
            DataError: the image cannot be read and the policy is "raise", or replacements failed as well.
        """
        epoch, index = pair
        for image in self._candidates(epoch, index):
            try:
                with sample_rng(self.seed, epoch, index) as rng:
                    record = self.records[image]
                    sample = self.mapper(record, rng=rng) if self._needs_rng else self.mapper(record)
            except (DataError, OSError) as error:  # PIL's errors for damaged files are OSErrors
                self._report(error, epoch, image)
                continue
            self.bad_images.good(image)
            if sample is not None:
                if isinstance(sample, dict):
                    sample["sample"] = (epoch, index)
                return sample
        raise DataError(
            f"no usable image in place of {self.name(index)}: {MAX_REPLACEMENTS} others failed as well. "
            "Is the storage still there? If the mapper returned None, check what it refuses"
        )

    def name(self, index: int) -> str:
        """Printable name of the image behind a sample index."""
        image = index % len(self.records)
        if hasattr(self.records, "name"):
            return printable(self.records.name(image))
        return printable(self.records[image].get("file_name", f"record {image}"))

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        total = len(self.records)
        yield index % total
        if self.bad_images.policy == "skip":
            yield from ((index + k) % total for k in range(1, MAX_REPLACEMENTS + 1))
        else:
            yield from replacement_indices(self.seed, epoch, index, total, MAX_REPLACEMENTS)

    def _report(self, error: Exception, epoch: int, image: int) -> None:
        name = self.name(image)
        reason = str(error) if isinstance(error, DataError) else f"cannot read image {name}: {error}"
        if self.bad_images.policy == "raise":
            raise DataError(
                f"{reason} (bad_image = 'raise'; 'skip' and 'replace' go on without it)"
            ) from error
        entry = {"file_name": name, "index": image, "epoch": epoch, "rank": comm.get_rank(), "reason": reason}
        self.bad_images.bad(image, entry)


class ResumableLoader:
    """Endless micro-batches of this rank, starting at any optimiser step.

    `total_batch_size` images make one optimiser step: `accumulate` micro-batches on each rank. Workers live
    as long as the iterator, over all epochs. Iterating again starts again at the step of the last `set_step`.
    """

    def __init__(
        self,
        dataset: TrainDataset,
        sampler: StepBatchSampler | Sequence[list[tuple[int, int]]],
        *,
        collate_fn: Callable[[list], Any] | None = None,
        num_workers: int = 4,
        timeout: float = 600,
        **kwargs: Any,
    ):
        """
        Args:
            dataset: samples by (epoch, index).
            sampler: of this rank; or its batches of (epoch, index), of which no more may be asked for.
            collate_fn: from a list of samples to a batch; None keeps the list (d2's form).
            num_workers: processes; 0 loads in the main process.
            timeout: seconds without a batch from the workers after which the run stops.
            kwargs: for torch's DataLoader.
        """
        self.dataset, self.sampler, self.num_workers = dataset, sampler, num_workers
        self._batches = BatchDataset(dataset, collate_fn, num_workers)
        if num_workers > 0:
            kwargs["timeout"] = timeout
            kwargs["worker_init_fn"] = init_worker
            # forked workers share the packed names; CUDA is not used in them
            kwargs["multiprocessing_context"] = "fork" if sys.platform.startswith("linux") else "spawn"
        else:
            kwargs.pop("prefetch_factor", None)
        self._loader = DataLoader(
            self._batches,
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=identity,
            # without its own generator each DataLoader iterator draws from the global one
            generator=torch.Generator().manual_seed(0),
            **kwargs,
        )
        self._digest = names_digest(dataset.records)
        check_same_on_all_ranks(self._digest, len(dataset))

    @property
    def collate_fn(self) -> Callable[[list], Any] | None:
        """From a list of samples to a batch; None keeps the list."""
        return self._batches.collate_fn

    @property
    def num_images(self) -> int:
        """N, images in the data set."""
        return len(self.dataset)

    @property
    def total_batch_size(self) -> int:
        """Images per optimiser step, all ranks and micro-batches included."""
        return self.sampler.total_batch_size

    @property
    def accumulate(self) -> int:
        """Micro-batches per optimiser step."""
        return self.sampler.accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per pass over the images, at least 1."""
        return self.sampler.steps_per_epoch

    @property
    def num_bad_images(self) -> int:
        """Distinct unreadable images met by this rank so far."""
        return self.dataset.bad_images.num_bad

    def set_step(self, step: int) -> None:
        """The next `iter()` begins with the first micro-batch of optimiser step `step`, counted from 0."""
        self.sampler.start_step = step

    def set_output_dir(self, output_dir: str) -> None:
        """Lists unreadable images in `<output_dir>/bad_images.jsonl` from now on; call before `iter()`."""
        self.dataset.bad_images.path = os.path.join(output_dir, FILE_NAME)

    def __iter__(self) -> Iterator[Any]:
        def explain(error: RuntimeError) -> DataError | None:
            return explain_failure(error, self._batches, self.dataset.name)

        if "cv2" in sys.modules:
            # A worker forked while a thread of OpenCV's pool holds the pool's lock inherits the lock and no
            # thread, and hangs in its first call that asks for the pool. One thread means no pool.
            sys.modules["cv2"].setNumThreads(1)
        batches = iter(self._loader)
        try:
            with named_worker_deaths(explain):
                while True:
                    batch = self._next(batches, explain)
                    if isinstance(batch, CarriedError):
                        raise DataError(batch.message)
                    yield batch
        finally:
            # Ends the workers now. Left to the garbage collector, torch's queues may go first, and then it
            # waits 5 s for each worker.
            del batches

    def _next(self, batches: Iterator[Any], explain: Callable[[RuntimeError], DataError | None]) -> Any:
        try:
            return next(batches)
        except RuntimeError as error:
            # within next() torch hides what the SIGCHLD handler raised behind a vaguer error
            known = error.__cause__ if isinstance(error.__cause__, DataError) else None
            explained = known or explain(error)
            if explained is None:
                raise
            raise explained from error

    def state(self) -> dict[str, Any]:
        """Plain values that must agree for a run to be resumed exactly; the position is the step itself."""
        return {
            "seed": self.dataset.seed,
            "total_batch_size": self.total_batch_size,
            "world_size": self.sampler.world_size,
            "accumulate": self.accumulate,
            "drop_last": self.sampler.drop_last,
            "sampler": type(self.sampler).__name__,
            "num_images": self.num_images,
            "names_sha256": self._digest,
        }

    def describe(self) -> str:
        """One line for the log."""
        sampler = self.sampler
        return (
            f"{self.num_images} images, batch {self.total_batch_size} = {sampler.world_size} process(es) x "
            f"{self.accumulate} micro-batch(es) x {sampler.micro_batch_size}, {self.steps_per_epoch} "
            f"step(s) per epoch, {self.num_workers} worker(s) per process"
        )


def build_train_loader(
    dataset: Sequence[dict],
    mapper: Callable[..., Any],
    total_batch_size: int,
    *,
    seed: int,
    accumulate: int = 1,
    num_workers: int = 4,
    drop_last: bool = True,
    aspect_ratio_grouping: bool = False,
    repeat_threshold: float | None = None,
    collate_fn: Callable[[list], Any] | None = None,
    pin_memory: bool | None = None,
    prefetch_factor: int = 2,
    bad_image: str = "raise",
    max_bad_fraction: float = 0.05,
    timeout: float = 600,
) -> ResumableLoader:
    """Builds the loader of a training config.

    Args:
        dataset: d2 dataset dicts or an ImageSource (densessl.data.sources).
        mapper: from a record to a sample, see TrainDataset.
        total_batch_size: images per optimiser step over all ranks and micro-batches.
        seed: `train.seed`; order and augmentations follow from it.
        accumulate: `train.accumulate`, micro-batches per optimiser step.
        num_workers: processes per rank; 0 loads in the main process. No effect on the batches.
        drop_last: see StepBatchSampler; aspect-ratio grouping never drops images.
        aspect_ratio_grouping: landscape and portrait images (record "width", "height") in micro-batches of
            their own, as detectron2 does for detection.
        repeat_threshold: LVIS repeat-factor sampling with this threshold (0.001 as published); None: off.
        collate_fn: from a list of samples to a batch; None keeps the list, as detectron2 does.
        pin_memory: None: if CUDA is available.
        prefetch_factor: batches that each worker prepares ahead.
        bad_image: "raise", "skip" or "replace"; max_bad_fraction: see BadImageLog.
        timeout: seconds without a batch after which stuck workers are reported.

    Raises:
        ConfigError: a batch that cannot be divided, or a value that cannot be used.
        DataError: no images, or ranks that see different lists.
    """
    if num_workers < 0:
        raise ConfigError(f"dataloader.train.num_workers={num_workers}: 0 loads in the main process.")
    check_not_empty(len(dataset), "the training data set")
    world_size, rank = comm.get_world_size(), comm.get_rank()
    factors = None if repeat_threshold is None else _repeat_factors(dataset, repeat_threshold)
    order = EpochOrder(len(dataset), seed, factors)
    split = {"world_size": world_size, "rank": rank, "accumulate": accumulate, "drop_last": drop_last}
    if aspect_ratio_grouping:
        sampler = AspectRatioBatchSampler(order, _orientation(dataset), total_batch_size, **split)
    else:
        sampler = StepBatchSampler(order, total_batch_size, **split)
    if len(dataset) < total_batch_size:
        logger.warning(
            "The data set has %d images, fewer than total_batch_size = %d: a step holds images of several "
            "epochs, with other augmentations each time.",
            len(dataset),
            total_batch_size,
        )
    loader = ResumableLoader(
        TrainDataset(
            pack_records(dataset), mapper, seed=seed, bad_image=bad_image, max_bad_fraction=max_bad_fraction
        ),
        sampler,
        collate_fn=collate_fn,
        num_workers=num_workers,
        timeout=timeout,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        prefetch_factor=prefetch_factor,
    )
    logger.info("Training data: %s", loader.describe())
    return loader


def build_test_loader(*args: Any, **kwargs: Any) -> DataLoader:
    """detectron2's `build_detection_test_loader`: every image once, in order, shared out over the ranks."""
    # at call: detectron2.data brings pycocotools and the whole structures package
    from detectron2.data import build_detection_test_loader

    return build_detection_test_loader(*args, **kwargs)


def _orientation(dataset: Sequence[dict]) -> np.ndarray:
    """uint8 (N,): 0 landscape, 1 portrait or square (detectron2's rule)."""
    groups = np.empty(len(dataset), np.uint8)
    for index in range(len(dataset)):
        record = dataset[index]
        if "width" not in record or "height" not in record:
            raise ConfigError(
                f"aspect_ratio_grouping needs 'width' and 'height' in every record; record {index} "
                f"({printable(record.get('file_name', '?'))}) has none: switch it off for unlabelled sources"
            )
        groups[index] = 0 if record["width"] > record["height"] else 1
    return groups


def _repeat_factors(dataset: Sequence[dict], threshold: float) -> np.ndarray:
    """float64 (N,): max over the categories of an image of max(1, sqrt(threshold / frequency))."""
    from detectron2.data.samplers import RepeatFactorTrainingSampler

    if any("annotations" not in dataset[index] for index in range(len(dataset))):
        raise ConfigError(
            "repeat_threshold needs records with 'annotations': set it to null for unlabelled data"
        )
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dataset, threshold)
    return factors.double().numpy()
