"""Clusters the whole data set at the start of each epoch, for PiCIE and MDC.

janghyuncho/PiCIE, train_picie.py:208-293 and commons.py:52-183. Letters: V views, M images, K clusters, C
channels.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from torch import Tensor

from densessl.checkpoint.files import list_checkpoints
from densessl.checkpoint.state import collect_rng_state, restore_rng_state
from densessl.clustering.kmeans import InitialPoints, MiniBatchKMeans, assign_clusters
from densessl.clustering.labels import LabelFile, remove_other_labels
from densessl.data.build import ResumableLoader
from densessl.errors import ConfigError

_logger = logging.getLogger(__name__)


class ClusterHook(HookBase):
    """At the first step of an epoch, on all processes together:

    1. k-means: all images once, both views from one decoding; the first batches give the initial clustering,
       the others move its centroids;
    2. labels: all images once more, in evaluation mode, into one file of bytes;
    3. the model takes centroids and counts; a trained classifier starts anew, and the optimiser forgets it.

    The epoch's training steps are the third pass over the data; the authors make five. All passes see the
    same augmentations, since those are a function of (seed, epoch, image). A run that stops while clustering
    goes on from its last checkpoint and clusters again, with the same result; one that stops within an epoch
    finds its labels in the file, which is kept as long as a checkpoint needs it.

    After the last step the squares as they are, without crop and colours, are clustered `model.num_fresh`
    times with different seeds, from one pass over the data, for the evaluation that follows.

    Differences from the authors' code: with `batch_norm="train"` the running statistics are updated by both
    views in turn, theirs by one view after the other; a last batch with fewer images than processes moves
    no centroid; the final clustering uses running statistics, so that it leaves the trained state alone, and
    squares that were first cut at twice the size.

    Args:
        batch_size: images that move the centroids together, over all processes.
        init_batches: batches for the initial clustering; all, if there are fewer.
        batches_per_update: see `MiniBatchKMeans`.
        init_iterations: of Lloyd's algorithm.
        points_per_image: see `InitialPoints`; None: all cells, as the authors.
        batch_norm: "train": batch statistics in pass 1, which also updates the running ones (the authors'
            code since December 2021); "eval": running ones (their code of July 2021, DenseSiam's PiCIE).
        num_workers: processes that load, for each process and pass.
    """

    def __init__(
        self,
        batch_size: int = 256,
        init_batches: int = 20,
        batches_per_update: int = 1,
        init_iterations: int = 20,
        points_per_image: int | None = 51,
        batch_norm: str = "train",
        num_workers: int = 4,
    ) -> None:
        if batch_norm not in ("train", "eval"):
            raise ConfigError(f"ClusterHook: batch_norm={batch_norm!r}; use train or eval.")
        if min(batch_size, init_batches, batches_per_update, init_iterations) < 1 or num_workers < 0:
            raise ConfigError(
                "ClusterHook: batch sizes and numbers of batches and iterations are at least 1."
            )
        self.batch_size, self.init_batches = batch_size, init_batches
        self.batches_per_update, self.init_iterations = batches_per_update, init_iterations
        self.points_per_image, self.batch_norm = points_per_image, batch_norm
        self.num_workers = num_workers
        self._labels: LabelFile | None = None
        self._epoch, self._digest = -1, ""

    def before_train(self) -> None:
        """Checks model and loader; within an epoch, opens its labels.

        Raises:
            ConfigError: the model takes no clusters, or a step would span two epochs.
            CheckpointError: the labels of a run stopped within an epoch are gone.
        """
        loader, model = self.trainer.data_loader, self.trainer.module
        if not hasattr(model, "start_epoch"):
            raise ConfigError(f"ClusterHook: {type(model).__name__} takes no clusters; use PiCIE.")
        if not loader.sampler.drop_last or loader.num_images < loader.total_batch_size:
            raise ConfigError(
                f"ClusterHook: {loader.num_images} images, batch {loader.total_batch_size}, drop_last="
                f"{loader.sampler.drop_last}: a step would hold images of two epochs, whose labels differ. "
                "Use drop_last=true and at least as many images as the batch."
            )
        if self.trainer.start_iter % loader.steps_per_epoch:
            labels = LabelFile(self.trainer.output_dir, self._epoch)
            labels.open(self._digest)
            self._use(labels)

    def before_step(self) -> None:
        if self.trainer.iter % self.trainer.data_loader.steps_per_epoch == 0:
            self.cluster(self.trainer.iter // self.trainer.data_loader.steps_per_epoch)

    def after_step(self) -> None:
        if self.trainer.iter + 1 == self.trainer.max_iter and len(self.trainer.module.fresh_centroids):
            self.cluster_afresh(self.trainer.iter // self.trainer.data_loader.steps_per_epoch)

    @torch.no_grad()
    def cluster_afresh(self, epoch: int) -> None:
        """Final clusterings for the evaluation; on every process."""
        random_state = collect_rng_state()
        model, seed = self.trainer.module, self.trainer.data_loader.dataset.seed
        repeats = len(model.fresh_centroids)
        self._share_statistics()
        model.eval()

        def encode(batch: dict[str, Any]) -> list[Tensor]:
            with self.trainer._autocast():
                return [model.encode_plain(batch)] * repeats

        centroids, losses = self._find_centroids(epoch, [seed + r for r in range(repeats)], encode)
        model.train()
        model.fresh_centroids.copy_(centroids)
        restore_rng_state(random_state)
        _logger.info("Final clusterings: k-means loss %s", ", ".join(f"{loss:.4f}" for loss in losses))

    @torch.no_grad()
    def cluster(self, epoch: int) -> None:
        """Clusters and labels now; on every process."""
        random_state = collect_rng_state()
        model, start = self.trainer.module, time.perf_counter()
        seed = self.trainer.data_loader.dataset.seed
        self._share_statistics()
        # 1. k-means
        model.train(self.batch_norm == "train")
        views = range(model.num_views)
        centroids, losses = self._find_centroids(
            epoch, [seed + epoch for _ in views], lambda batch: [self._encode(batch, view) for view in views]
        )
        clustered = time.perf_counter()
        # 2. labels
        self._share_statistics()
        model.eval()
        counts = self._write_labels(epoch, centroids)
        model.train()
        # 3. the model takes them
        for parameter in model.start_epoch(centroids, counts, seed=seed + epoch):
            self.trainer.optimizer.state.pop(parameter, None)
        restore_rng_state(random_state)
        share = counts / counts.sum(1, keepdim=True)
        effective = torch.exp(-torch.xlogy(share, share).sum(1)).min()
        for view, loss in enumerate(losses, 1):
            self.trainer.storage.put_scalar(f"cluster/kmeans_loss_{view}", loss, smoothing_hint=False)
        self.trainer.storage.put_scalar("cluster/effective_clusters", effective, smoothing_hint=False)
        self.trainer.storage.put_scalar("cluster/empty", (counts == 0).sum(), smoothing_hint=False)
        _logger.info(
            "Epoch %d clustered: k-means loss %s, %d of %d clusters empty; centroids %.1f s, labels %.1f s",
            *(epoch, ", ".join(f"{loss:.4f}" for loss in losses), int((counts == 0).sum()), counts.numel()),
            *(clustered - start, time.perf_counter() - clustered),
        )

    def _share_statistics(self) -> None:
        """Gives all processes the running statistics of the main one, which a checkpoint has.

        Batch norms that are not synchronised have their own in each process; labels would then depend on the
        process that makes them, and a resumed run would make others.
        """
        if comm.get_world_size() > 1:
            for buffer in self.trainer.module.buffers():
                dist.broadcast(buffer, src=0)

    def _find_centroids(
        self, epoch: int, seeds: Sequence[int], encode: Callable[[dict], list[Tensor]]
    ) -> tuple[Tensor, list[float]]:
        """One pass over the data for several clusterings at once.

        Args:
            epoch: whose order and augmentations are used.
            seeds: of each clustering.
            encode: from a batch to the features of each clustering.

        Returns:
            (clusterings, K, C) centroids, and the k-means loss of each.
        """
        order = self.trainer.data_loader.sampler.order.indices(epoch)
        batches = [order[i : i + self.batch_size].tolist() for i in range(0, len(order), self.batch_size)]
        batches = [batch for batch in batches if len(batch) >= comm.get_world_size()]
        first = min(self.init_batches, len(batches))
        initial = [InitialPoints(self.points_per_image, seed) for seed in seeds]
        streams: list[MiniBatchKMeans] = []
        for number, batch in enumerate(self._load(batches, epoch)):
            if number == first:
                streams = [self._start(points) for points in initial]
            for index, features in enumerate(encode(batch)):
                if number < first:
                    initial[index].add(features, batch["index"])
                else:
                    streams[index].add(features)
        streams = streams or [self._start(points) for points in initial]
        return torch.stack([stream.centroids for stream in streams]), [s.finish() for s in streams]

    def _start(self, points: InitialPoints) -> MiniBatchKMeans:
        model = self.trainer.module
        start = points.cluster(model.num_clusters, self.init_iterations)
        return MiniBatchKMeans(*start, device=model.device, batches_per_update=self.batches_per_update)

    def _write_labels(self, epoch: int, centroids: Tensor) -> Tensor:
        """Pass 2: labels into the file; returns (V, K) float64 counts over all processes."""
        model, loader = self.trainer.module, self.trainer.data_loader
        labels, size = LabelFile(self.trainer.output_dir, epoch), model.feature_size
        if comm.is_main_process():
            labels.create(model.num_views, loader.num_images, (size, size))
        comm.synchronize()
        labels.open_partial()
        counts = torch.zeros(centroids.shape[:2], dtype=torch.float64, device=centroids.device)
        indices = list(range(loader.num_images))
        batches = [indices[i : i + self.batch_size] for i in range(0, len(indices), self.batch_size)]
        for batch in self._load(batches, epoch):
            for view in range(model.num_views):
                assigned = assign_clusters(self._encode(batch, view), centroids[view])
                counts[view] += torch.bincount(assigned.flatten(), minlength=counts.shape[1])
                labels.write(view, batch["index"], assigned)
        labels.flush()
        comm.synchronize()
        if comm.get_world_size() > 1:
            dist.all_reduce(counts)
        if comm.is_main_process():
            labels.publish()
        comm.synchronize()
        labels.open()
        self._epoch, self._digest = epoch, labels.digest()
        self._use(labels)
        return counts

    def _encode(self, batch: dict[str, Any], view: int) -> Tensor:
        """Features in the precision of the training, in the end float32."""
        with self.trainer._autocast():
            return self.trainer.module.encode_view(batch, view)

    def _use(self, labels: LabelFile) -> None:
        """Hands the labels to the model; deletes files that neither it nor a checkpoint needs."""
        self._labels = labels
        self.trainer.module.read_labels = labels.read
        if comm.is_main_process():
            steps = self.trainer.data_loader.steps_per_epoch
            finished = [iteration for iteration, _ in list_checkpoints(self.trainer.output_dir)]
            keep = {iteration // steps for iteration in finished if iteration % steps}
            remove_other_labels(self.trainer.output_dir, keep | {self._epoch})

    def _load(self, batches: list[list[int]], epoch: int) -> Iterator[dict[str, Any]]:
        """This process's part of each batch, where it has one."""
        world_size, rank = comm.get_world_size(), comm.get_rank()
        parts = [np.array_split(batch, world_size)[rank].tolist() for batch in batches]
        mine = [[(epoch, index) for index in part] for part in parts if part]
        train = self.trainer.data_loader
        loader = ResumableLoader(
            train.dataset, mine, collate_fn=train.collate_fn, num_workers=self.num_workers
        )
        loaded = iter(loader)
        try:
            yield from islice(loaded, len(mine))
        finally:
            loaded.close()  # ends the loader's workers

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "labels_sha256": self._digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._digest = state["epoch"], state["labels_sha256"]
