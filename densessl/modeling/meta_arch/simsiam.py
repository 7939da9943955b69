"""SimSiam: two views, a predictor and a stopped gradient, without negatives or averaged encoder.

"Exploring Simple Siamese Representation Learning" (https://arxiv.org/abs/2011.10566); authors' code
facebookresearch/simsiam, simsiam/builder.py and main_simsiam.py:294-295. Letters: N images, C channels,
D embedding.
"""

from collections.abc import Sequence

import torch
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from torch import Tensor, nn

from densessl.losses.cosine import feature_spread, negative_cosine
from densessl.modeling.meta_arch.two_view import Batch, TwoViewModel
from densessl.utils.events import log_metric


@META_ARCH_REGISTRY.register()
class SimSiam(TwoViewModel):
    """(D(p1, stop(z2)) + D(p2, stop(z1))) / 2 with D = -cosine, Eq. (4).

    A collapsed run shows a loss of -1 and, within minutes, "simsiam/feature_std" (of z) or
    "simsiam/backbone_std" near 0; a healthy one keeps the first near 1 and the second well above 0. Both are
    watched because the last norm of the projector can blow the rounding of a constant trunk up to full size.

    Args:
        backbone: trunk.
        projection_head: (N, C, H, W) -> (N, D), z.
        prediction_head: (N, D) -> (N, D), p. The published recipe keeps its learning rate constant.
        in_feature: output of the backbone to use.
        pixel_mean, pixel_std: per channel, RGB in [0, 255].
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        projection_head: nn.Module,
        prediction_head: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_feature: str = "res5",
    ):
        super().__init__(backbone=backbone, in_feature=in_feature, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.check_head("projection_head", projection_head)
        self.projection_head = projection_head
        self.prediction_head = prediction_head

    def forward(self, batch: Batch) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Training: {"loss_cosine": scalar in [-1, 1]}; evaluation: see `inference`."""
        if not self.training:
            return self.inference(batch)
        # one pass per view: batch norm sees each view on its own, as in the authors' code
        features = [
            self.backbone(self.normalize(view))[self.in_feature]  # (N, C, H, W)
            for view in self.collect_views(batch)
        ]
        projections = [self.projection_head(feature) for feature in features]  # (N, D)
        predictions = [self.prediction_head(projection) for projection in projections]  # (N, D)
        forth = negative_cosine(predictions[0], projections[1])
        back = negative_cosine(predictions[1], projections[0])
        self._log_health(features[0].mean((2, 3)), projections)
        return {"loss_cosine": 0.5 * (forth + back)}

    @torch.no_grad()
    def _log_health(self, pooled: Tensor, projections: list[Tensor]) -> None:
        first, second = projections
        log_metric("simsiam/backbone_std", feature_spread(pooled)["std"])
        spread = feature_spread(first)
        log_metric("simsiam/feature_std", spread["std"])
        log_metric("simsiam/effective_rank", spread["effective_rank"])
        log_metric("simsiam/positive_cosine", -negative_cosine(first, second))
        # cosine of each image with the next one's other view
        log_metric("simsiam/negative_cosine", -negative_cosine(first, second.roll(1, 0)))
