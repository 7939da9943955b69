"""MoCo: momentum contrast, versions 1 and 2.

"Momentum Contrast for Unsupervised Visual Representation Learning" (https://arxiv.org/abs/1911.05722) and
"Improved Baselines with Momentum Contrastive Learning" (https://arxiv.org/abs/2003.04297); authors' code
facebookresearch/moco, moco/builder.py. Version 1 is a projection head without hidden layer and
temperature 0.07; version 2 one with a hidden layer and 0.2. Letters: N images of a rank, C channels,
D embedding, K queue length, B images of an optimiser step over all ranks and micro-batches.
"""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.utils import comm
from torch import Tensor, nn

from densessl.errors import ConfigError
from densessl.layers.batch_shuffle import BatchShuffle, ShufflePlan, in_parts, uses_plain_batch_norm
from densessl.layers.momentum import momentum_copy, update_momentum_copy
from densessl.layers.queue import enqueue, gather_keys, register_queue
from densessl.losses.info_nce import info_nce_with_metrics
from densessl.losses.precision import at_least_float32
from densessl.modeling.meta_arch.two_view import Batch, TwoViewModel, View
from densessl.utils.events import log_metric

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class MoCo(TwoViewModel):
    """Each query must pick the key of its own image out of 1 + K; keys come from an averaged encoder.

    Order of one step. Published: averaging with the query weights of the moment, forward, loss, enqueue,
    optimiser step. Here the state changes after the optimiser's step, once per step and never in
    `forward`: enqueue, then averaging with the new weights (`after_optimizer_step`). That is the same
    sequence shifted by one: every forward sees the same averaged weights and queue, since at the first one
    the copy equals the query encoder and averaging changes nothing. After the last step the copy here is
    one average ahead. Micro-batches of one step all see the queue and copy from before the step.

    Args:
        backbone: trunk; its copy is `momentum_backbone`.
        projection_head: (N, C, H, W) -> (N, D) with attribute `out_channels`.
        in_feature: output of the backbone to use.
        queue_size: K; a multiple of B.
        momentum: share of the averaged weights that stays, in [0, 1].
        temperature: T.
        symmetric: also use the second view as the query and the first as the key; the loss is the mean of
            both directions and both keys enter the queue. Not in the published recipes.
        shuffle_groups: parts in which a process encodes its batch, each with batch norm statistics of its
            own; keys are shuffled across them. One process with g groups computes what g processes would
            (batch norm's running statistics apart, which see all parts). 1: one part, as published.
        dataset_size: number of training images of a recipe, if known; a queue longer than that holds several
            keys of the query's own image as negatives, which is warned about. The trainer gives the number
            of images it has found to `check_dataset`.
        pixel_mean, pixel_std: per channel, RGB in [0, 255].
    """

    method = "moco"  # prefix of the metrics
    averaged_parts = ("backbone", "projection_head")
    queue_names = ("queue",)

    def __init__(
        self,
        *,
        backbone: Backbone,
        projection_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_feature: str = "res5",
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        symmetric: bool = False,
        shuffle_groups: int = 1,
        dataset_size: int | None = None,
    ):
        super().__init__(backbone=backbone, in_feature=in_feature, pixel_mean=pixel_mean, pixel_std=pixel_std)
        if not 0.0 <= momentum <= 1.0:
            raise ConfigError(f"model.momentum={momentum}: the share of the average that stays is in [0, 1].")
        if not temperature > 0.0:
            raise ConfigError(f"model.temperature={temperature}: it divides the logits and must be positive.")
        if queue_size < 1:
            raise ConfigError(f"model.queue_size={queue_size}: there must be at least one negative.")
        if shuffle_groups < 1:
            raise ConfigError(f"model.shuffle_groups={shuffle_groups}: 1 encodes a batch as a whole.")
        self.check_head("projection_head", projection_head)
        self.projection_head = projection_head
        self.momentum_backbone = momentum_copy(backbone)
        self.momentum_projection_head = momentum_copy(projection_head)
        self.queue_size = queue_size
        self.momentum = momentum
        self.temperature = temperature
        self.symmetric = symmetric
        self.shuffle_groups = shuffle_groups
        # buffers are not broadcast in training, so every rank draws the same ones
        self.seed = comm.shared_random_seed()
        register_queue(self, "queue", queue_size, projection_head.out_channels, seed=self.seed)
        self.batch_shuffle = BatchShuffle(self.seed)
        self._shuffles: bool | None = None  # decided at the first forward, when norms are final
        self._pending: dict[str, list[Tensor]] = {name: [] for name in self.queue_names}
        self.dataset_size: int | None = None
        if dataset_size is not None:
            self.check_dataset(dataset_size)

    def check_dataset(self, num_images: int) -> None:
        """Warns of a queue longer than the data set, once per number of images."""
        if self.queue_size > num_images and num_images != self.dataset_size:
            logger.warning(
                "model.queue_size=%d is larger than the data set (%d images): keys of a query's own image "
                "will be among its negatives. Use a queue of at most %d.",
                *(self.queue_size, num_images, num_images),
            )
        self.dataset_size = num_images

    def validate_batch(self, total_batch_size: int, world_size: int) -> None:
        """Checks B against the queue; the trainer calls it before the first step.

        Raises:
            ConfigError: the keys of one step do not divide the queue.
        """
        keys = total_batch_size * (2 if self.symmetric else 1)
        if keys > self.queue_size or self.queue_size % keys:
            raise ConfigError(
                f"model.queue_size={self.queue_size} is not a multiple of the {keys} keys of one step "
                f"(dataloader.train.total_batch_size={total_batch_size} over {world_size} process(es)"
                f"{', two keys per image with model.symmetric' if self.symmetric else ''}); "
                f"use model.queue_size={max(1, round(self.queue_size / keys)) * keys} or another batch size."
            )

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Training: {"loss_global": scalar}; evaluation: see `inference`."""
        if not self.training:
            return self.inference(batch)
        first, second = self.collect_views(batch)
        directions = [(first, second), (second, first)] if self.symmetric else [(first, second)]
        results = [self.contrast(query_view, key_view) for query_view, key_view in directions]
        losses, metrics, keys = (list(items) for items in zip(*results, strict=True))
        for name, value in _mean(metrics).items():
            log_metric(f"{self.method}/{name}", value)
        for name in self.queue_names:
            # image by image, so that the order in the queue does not depend on micro-batches or ranks
            stacked = torch.stack([key[name] for key in keys], dim=1)  # (N, directions, D)
            self._pending[name].append(stacked.flatten(0, 1))
        return _mean(losses)

    def contrast(self, query_view: View, key_view: View) -> tuple[dict, dict, dict]:
        """One direction.

        Returns:
            weighted losses, metrics without gradient, and the keys (N, D) to enqueue by name of the queue.
        """
        query = in_parts(self._encode_query_images, self.normalize(query_view), self.shuffle_groups)
        key = self.encode_key(key_view)
        losses, metrics = self.losses(query, key)
        return losses, metrics, self.keys_to_enqueue(key)

    @torch.no_grad()
    def encode_key(self, view: View) -> dict[str, Tensor]:
        """`embed_key` of the averaged trunk's map, with shuffled batch norm where it applies."""
        plan = self._draw_shuffle(view.images)
        if plan is not None:
            parameters = None if view.photometric is None else plan.shuffle(view.photometric)
            view = View(plan.shuffle(view.images), parameters)
        embeddings = in_parts(self._encode_key_images, self.normalize(view), self.shuffle_groups)
        if plan is None:
            return embeddings
        return {name: plan.unshuffle(value) for name, value in embeddings.items()}

    def _encode_query_images(self, images: Tensor) -> dict[str, Tensor]:
        return self.embed_query(self.backbone(images)[self.in_feature])

    def _encode_key_images(self, images: Tensor) -> dict[str, Tensor]:
        return self.embed_key(self.momentum_backbone(images)[self.in_feature])

    def embed_query(self, feature: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) map -> {"global": (N, D) unit vectors}."""
        return {"global": unit_vectors(self.projection_head(feature))}

    def embed_key(self, feature: Tensor) -> dict[str, Tensor]:
        """As `embed_query`, with the averaged head."""
        return {"global": unit_vectors(self.momentum_projection_head(feature))}

    def losses(self, query: dict[str, Tensor], key: dict[str, Tensor]) -> tuple[dict, dict]:
        """Returns weighted losses, and metrics of the unweighted terms."""
        loss, metrics = info_nce_with_metrics(query["global"], key["global"], self.queue, self.temperature)
        metrics |= {"loss_global_unweighted": loss.detach(), "queue_filled": self.queue_filled[0].float()}
        return {"loss_global": loss}, metrics

    def keys_to_enqueue(self, key: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the (N, D) unit vectors for each queue."""
        return {"queue": key["global"]}

    def after_optimizer_step(self, skip: Tensor | None = None) -> None:
        """Enqueues the keys of the step and averages the weights; see the class for the order.

        Args:
            skip: 0-dim tensor on the device; where true neither queue nor averaged weights change.
        """
        self.enqueue_pending(skip)
        self.update_momentum_encoder(skip)

    def enqueue_pending(self, skip: Tensor | None = None) -> None:
        """Moves the keys of all forwards since the last call, of all ranks, into the queues."""
        for name, keys in self._pending.items():
            if keys:
                enqueue(self, name, gather_keys(keys), skip)
        self.discard_pending()

    def discard_pending(self) -> None:
        """Forgets the keys of a step that was not performed."""
        for keys in self._pending.values():
            keys.clear()

    def update_momentum_encoder(self, skip: Tensor | None = None) -> None:
        """Averages the parameters (not the batch norm statistics) with `momentum`."""
        for part in self.averaged_parts:
            update_momentum_copy(getattr(self, f"momentum_{part}"), getattr(self, part), self.momentum, skip)

    @torch.compiler.disable  # it counts its calls
    def _draw_shuffle(self, images: Tensor) -> ShufflePlan | None:
        if self._shuffles is None:
            plain = uses_plain_batch_norm(self.momentum_backbone)
            self._shuffles = plain and comm.get_world_size() * self.shuffle_groups > 1
            if plain and not self._shuffles:
                logger.warning(
                    "Shuffling batch norm does nothing in one process: query and key of an image share batch "
                    "statistics, which can leak the answer. Set model.shuffle_groups=8 to compute as eight "
                    "processes would, train with several processes, or choose another norm (e.g. "
                    'model.backbone.norm="GN").'
                )
        return self.batch_shuffle.draw(images.shape[0]) if self._shuffles else None


def unit_vectors(x: Tensor) -> Tensor:
    """x / max(|x|, 1e-12) along dimension 1, in float32 under autocast too."""
    return F.normalize(at_least_float32(x), dim=1)


def _mean(results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    if len(results) == 1:
        return results[0]
    return {name: torch.stack([result[name] for result in results]).mean(0) for name in results[0]}
