"""PiCIE and MDC: a network learns the clusters of its own dense features, under invariance and equivariance.

"PiCIE: Unsupervised Semantic Segmentation using Invariance and Equivariance in Clustering"
(https://arxiv.org/abs/2103.17070); authors' code janghyuncho/PiCIE, train_picie.py and train_mdc.py. Letters:
N images, V views, C channels, h x w cells, K clusters, R side of the square that the network sees, S = 2 R of
the one that the loader cuts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from torch import Tensor, nn

from densessl.errors import ConfigError
from densessl.layers.crop_flip import crop_boxes, crop_flip
from densessl.layers.photometric import apply_photometric
from densessl.losses.cluster_ce import (
    BALANCES,
    ClusterTarget,
    balance_weights,
    cluster_cross_entropy,
    dot_logits,
    within_across_losses,
)
from densessl.modeling.heads import ClusterClassifier
from densessl.utils.events import log_metric

ALIGNMENTS = ("exact", "published")


@META_ARCH_REGISTRY.register()
class PiCIE(nn.Module):
    """Two views, or one for MDC, each with its own clusters; the labels come from `ClusterHook`.

    View 1 has the crop cut from the image before the network, view 2 the same crop from the features after
    it, so that both maps show the same place; colours differ. The loss of view v is the cross entropy with
    its own labels (within) and with those of the other view (across), through frozen classifiers whose
    weights are the centroids.

    With one view and a `classifier` this is MDC: view 1 only, a trained classifier that starts anew with each
    clustering.

    Differences from the authors' code: the crop on the features is exactly where the crop on the image is
    (`alignment="exact"`), where theirs rounds on both grids and is 0.3 cells off on average; photometric work
    runs on the device in float32 (Pillow rounds to whole levels).

    Args:
        backbone: gives one dense map, e.g. `LateralFPN`.
        in_feature: its name.
        num_clusters: K, at most 255.
        num_views: 2, or 1 for MDC.
        classifier: trained classifier of one view; None: the centroids.
        resolution: R in pixels.
        alignment: "exact", or "published" for the authors' rounding.
        balance: see `balance_weights`.
        num_fresh: clusterings that `ClusterHook` makes after the last step for the final evaluation (the
            authors' --repeats).
        loss_distance_weight: m in (1 - m) loss + m |f1 - f2|^2 (mean over elements); 0 as published, 0.5 with
            the authors' --mse.
        pixel_mean, pixel_std: per channel, RGB in [0, 255].

    Raises:
        ConfigError: values that do not fit together.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        in_feature: str = "p2",
        num_clusters: int = 27,
        num_views: int = 2,
        classifier: ClusterClassifier | None = None,
        resolution: int = 320,
        alignment: str = "exact",
        balance: str = "frequency",
        num_fresh: int = 1,
        loss_distance_weight: float = 0.0,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        if not 2 <= num_clusters <= 255:
            raise ConfigError(f"model.num_clusters={num_clusters}: 2 to 255, labels are bytes.")
        if num_views not in (1, 2) or (classifier is not None and num_views != 1):
            raise ConfigError(f"model.num_views={num_views}: 2, or 1; a trained classifier takes 1.")
        if alignment not in ALIGNMENTS or balance not in BALANCES:
            raise ConfigError(
                f"model.alignment={alignment!r}, model.balance={balance!r}: alignment is one of "
                f"{', '.join(ALIGNMENTS)}, balance of {', '.join(BALANCES)}."
            )
        shapes = backbone.output_shape()
        if in_feature not in shapes:
            raise ConfigError(f"model.in_feature={in_feature!r}: the backbone returns {', '.join(shapes)}.")
        self.backbone = backbone
        self.in_feature = in_feature
        self.num_clusters, self.num_views = num_clusters, num_views
        self.classifier = classifier
        self.resolution, self.alignment, self.balance = resolution, alignment, balance
        self.loss_distance_weight = loss_distance_weight
        self.feature_size = -(-resolution // shapes[in_feature].stride)
        channels = shapes[in_feature].channels
        self.register_buffer("centroids", torch.zeros(num_views, num_clusters, channels))
        # zero until the end of training
        self.register_buffer("fresh_centroids", torch.zeros(num_fresh, num_clusters, channels))
        self.register_buffer("cluster_counts", torch.zeros(num_views, num_clusters, dtype=torch.float64))
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)
        # (view, indices of images) -> (N, h, w) uint8; set by ClusterHook, not part of a checkpoint
        self.read_labels: Callable[[int, Sequence[int]], Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batch: Any) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Training: {"loss_within", "loss_across"}, or {"loss_cluster"} with one view, and "loss_distance"
        with a weight; evaluation: see `inference`.

        Args:
            batch: `image` (N, 3, S, S) uint8; `photometric`, for each view (N, P); `crop` (N, 4) float64, see
                `densessl.layers.crop_flip`; `index`, of the images in the data set.
        """
        if not self.training:
            return self.inference(batch)
        if self.read_labels is None:
            raise ConfigError(
                "PiCIE has no clusters yet: add densessl.engine.cluster_hook.ClusterHook to train.hooks."
            )
        features = [self.encode_view(batch, view) for view in range(self.num_views)]  # (N, C, h, w)
        targets = [self._target(view, batch["index"]) for view in range(self.num_views)]
        return self.losses(features, targets)

    def encode_view(self, batch: dict[str, Any], view: int) -> Tensor:
        """Features of one view of a batch: (N, C, h, w) float32 of unit length."""
        return self.embed_view(*self.prepare_view(batch, view), view)

    def prepare_view(self, batch: dict[str, Any], view: int) -> tuple[Tensor, Tensor]:
        """Colours of a view: its images, (N, 3, S, S) for view 0 and (N, 3, R, R) for view 1, normalised; and
        the crop, on the device."""
        if batch["image"].shape[-1] != 2 * self.resolution:
            raise ConfigError(
                f"PiCIE: images of side {batch['image'].shape[-1]}, model.resolution={self.resolution}: the "
                "loader's mapper must cut squares of twice the resolution (size)."
            )
        images = batch["image"].to(self.device, non_blocking=True).float()
        images = apply_photometric(images, batch["photometric"][view].to(self.device, non_blocking=True))
        if view == 1:
            # antialiased as Pillow resizes
            size = (self.resolution, self.resolution)
            images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return self._normalize(images), batch["crop"].to(self.device, non_blocking=True)

    def encode_plain(self, batch: dict[str, Any]) -> Tensor:
        """Features of a batch's squares at size R, with colours and place as they are: (N, C, h, w) float32
        of unit length."""
        images = batch["image"].to(self.device, non_blocking=True).float()
        size = (self.resolution, self.resolution)
        images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return F.normalize(self.backbone(self._normalize(images))[self.in_feature].float(), dim=1)

    def embed_view(self, images: Tensor, crop: Tensor, view: int) -> Tensor:
        """The network and the crop, in the order of the view: (N, C, h, w) float32 of unit length.

        Args:
            images: (N, 3, S, S) for view 0, (N, 3, R, R) for view 1, normalised.
            crop: (N, 4) float64.
            view: 0 or 1.
        """
        flip = crop[:, 3]
        if view == 0:
            images = crop_flip(images, crop_boxes(crop, images.shape[-1]), flip, self.resolution)
            return F.normalize(self.backbone(images)[self.in_feature].float(), dim=1)
        maps = self.backbone(images)[self.in_feature].float()
        size = maps.shape[-1]
        if self.alignment == "published":
            maps = crop_flip(maps, crop_boxes(crop, size), flip, size)
        else:
            # the box of view 0: whole pixels of the loader's square
            side = 2 * self.resolution
            maps = crop_flip(maps, crop_boxes(crop, side) * (size / side), flip, size, within_box=False)
        return F.normalize(maps, dim=1)

    def losses(self, features: Sequence[Tensor], targets: Sequence[ClusterTarget]) -> dict[str, Tensor]:
        """Of the features and targets of each view; their sum is the loss."""
        if self.num_views == 1:
            logits = self._logits(features[0], 0)
            return {"loss_cluster": cluster_cross_entropy(logits, targets[0].labels, targets[0].weight)}
        within, across = within_across_losses(tuple(features), tuple(targets))
        share = 0.5 * (1.0 - self.loss_distance_weight)
        losses = {"loss_within": share * within, "loss_across": share * across}
        if self.loss_distance_weight > 0:
            losses["loss_distance"] = self.loss_distance_weight * F.mse_loss(*features)
        cosine = (features[0].detach() * features[1].detach()).sum(1).mean()
        log_metric("picie/view_cosine", cosine)
        return losses

    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Scores of clusters for images of equal size.

        Args:
            batched_inputs: each {"image": (3, H, W) RGB in [0, 255]}.

        Returns:
            for each image {"sem_seg": {classifier: (K, h, w) scores}}: "view1" and "view2", whose centroids
            are those of the epoch's start, as in the authors' evaluations; after the last step also "fresh1",
            "fresh2", ...
        """
        images = torch.stack([item["image"].to(self.device) for item in batched_inputs]).float()
        features = F.normalize(self.backbone(self._normalize(images))[self.in_feature].float(), dim=1)
        scores = {f"view{view + 1}": self._logits(features, view) for view in range(self.num_views)}
        if self.fresh_centroids.any():
            for number, centroids in enumerate(self.fresh_centroids, 1):
                scores[f"fresh{number}"] = dot_logits(features, centroids)
        return [{"sem_seg": dict(zip(scores, maps))} for maps in zip(*scores.values())]

    @torch.no_grad()
    def start_epoch(self, centroids: Tensor, counts: Tensor, seed: int) -> list[nn.Parameter]:
        """Takes new clusters.

        Args:
            centroids: (V, K, C).
            counts: (V, K), cells of each cluster.
            seed: of the trained classifier, equal on all processes.

        Returns:
            parameters that started anew; the optimiser's state of them is void.
        """
        self.centroids.copy_(centroids)
        self.cluster_counts.copy_(counts)
        if self.classifier is None:
            return []
        self.classifier.reset(seed)
        return list(self.classifier.parameters())

    def _logits(self, features: Tensor, view: int) -> Tensor:
        if self.classifier is not None:
            return self.classifier(features)
        return dot_logits(features, self.centroids[view])

    def _target(self, view: int, indices: Sequence[int]) -> ClusterTarget:
        labels = self.read_labels(view, indices).to(self.device, non_blocking=True)
        return ClusterTarget(
            self.centroids[view], labels, balance_weights(self.cluster_counts[view], self.balance)
        )

    def _normalize(self, images: Tensor) -> Tensor:
        return (images - self.pixel_mean) / self.pixel_std
