"""DenseCL: MoCo v2 with a second contrast at every position of the map.

"Dense Contrastive Learning for Self-Supervised Visual Pre-Training" (https://arxiv.org/abs/2011.09157);
authors' code WXinlong/DenseCL, openselfsup/models/densecl.py. Letters: N images of a rank, C backbone
channels, S positions of the (pooled) map, D embedding, K queue length.

Differences from the authors' code, none of which changes a published setting:
- with `num_grid` the matched maps are pooled as the head's input is; the authors pool the latter only;
- the loss is streamed over the queue (densessl/losses/info_nce.py);
- the keys' maps go back to their rank by all-to-all, and not to all ranks by all-gather;
- the query's pooled dense vector, which the authors compute and drop, is not computed.
"""

from collections.abc import Sequence

from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from torch import Tensor, nn

from densessl.errors import ConfigError
from densessl.layers.momentum import momentum_copy
from densessl.layers.queue import register_queue
from densessl.losses.dense_info_nce import dense_info_nce_with_metrics, distinct_match_share, match_dense
from densessl.losses.precision import at_least_float32
from densessl.modeling.meta_arch.moco import MoCo, unit_vectors


@META_ARCH_REGISTRY.register()
class DenseCL(MoCo):
    """(1 - lambda) InfoNCE(global) + lambda InfoNCE(dense), the paper's section 3.3.

    Each query position is matched with the key position whose backbone feature has the highest cosine
    (section 3.4); the negatives are pooled dense keys of other images. Maps are matched before any head.

    Args:
        dense_projection_head: (N, C, H, W) -> (N, D, S) and the (N, C, S) map under it, with attribute
            `out_channels`.
        loss_weight: lambda, in [0, 1]. The authors' optional warm-up (0 for the first iterations, a step;
            openselfsup/hooks/densecl_warmup_hook.py, in none of their configs) is a schedule of
            `model.loss_weight`.
        other arguments: see `MoCo`.
    """

    method = "densecl"
    averaged_parts = ("backbone", "projection_head", "dense_projection_head")
    queue_names = ("queue", "dense_queue")

    def __init__(
        self,
        *,
        backbone: Backbone,
        projection_head: nn.Module,
        dense_projection_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_feature: str = "res5",
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        loss_weight: float = 0.5,
        symmetric: bool = False,
        shuffle_groups: int = 1,
        dataset_size: int | None = None,
    ):
        super().__init__(
            backbone=backbone,
            projection_head=projection_head,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            in_feature=in_feature,
            queue_size=queue_size,
            momentum=momentum,
            temperature=temperature,
            symmetric=symmetric,
            shuffle_groups=shuffle_groups,
            dataset_size=dataset_size,
        )
        if not 0.0 <= loss_weight <= 1.0:
            raise ConfigError(
                f"model.loss_weight={loss_weight}: the share of the dense loss lies between 0 and 1."
            )
        self.check_head("dense_projection_head", dense_projection_head)
        self.dense_projection_head = dense_projection_head
        self.momentum_dense_projection_head = momentum_copy(dense_projection_head)
        self.loss_weight = loss_weight
        dim = dense_projection_head.out_channels
        register_queue(self, "dense_queue", queue_size, dim, seed=self.seed + 1)

    def embed_query(self, feature: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) map -> "global" (N, D), "dense" (N, D, S) unit vectors and "grid" (N, C, S)."""
        dense, grid = self.dense_projection_head(feature)
        return {**super().embed_query(feature), "dense": unit_vectors(dense), "grid": grid.detach()}

    def embed_key(self, feature: Tensor) -> dict[str, Tensor]:
        """As `embed_query`, and "pooled" (N, D): the mean over positions, normalised only afterwards."""
        dense, grid = self.momentum_dense_projection_head(feature)
        pooled = unit_vectors(at_least_float32(dense).mean(2))
        return {
            **super().embed_key(feature),
            "dense": unit_vectors(dense),
            "pooled": pooled,
            "grid": grid,
        }

    def losses(self, query: dict[str, Tensor], key: dict[str, Tensor]) -> tuple[dict, dict]:
        losses, metrics = super().losses(query, key)
        match = match_dense(query["grid"], key["grid"])  # (N, S)
        loss, dense_metrics = dense_info_nce_with_metrics(
            query["dense"], key["dense"], match, self.dense_queue, self.temperature
        )
        metrics |= {f"dense_{name}": value for name, value in dense_metrics.items()}
        metrics["loss_dense_unweighted"] = loss.detach()
        metrics["match_distinct"] = distinct_match_share(match, key["grid"].shape[2])
        weighted = {
            "loss_global": (1.0 - self.loss_weight) * losses["loss_global"],
            "loss_dense": self.loss_weight * loss,
        }
        return weighted, metrics

    def keys_to_enqueue(self, key: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**super().keys_to_enqueue(key), "dense_queue": key["pooled"]}
