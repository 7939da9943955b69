"""FCOS as its authors train it, on detectron2's FCOS.

"FCOS: A Simple and Strong Anchor-free Object Detector" (https://arxiv.org/abs/2006.09214); authors' code
aim-uofa/AdelaiDet, adet/modeling/fcos/. detectron2's own FCOS is another training recipe: see `AuthorsFCOS`.
Letters: N images, R points of all levels, M boxes of an image, K classes, P positive points.
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import batched_nms, cat
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn

from densessl.layers.rank_mean import rank_mean
from densessl.losses.fcos import centerness, distance_giou
from densessl.losses.precision import at_least_float32

# A level sees boxes whose farthest side is at most this many strides away: 64 pixels at stride 8 ... 512 at
# stride 64 (adet/config/defaults.py:57, SIZES_OF_INTEREST)
REACH = 8
NO_BOX = 1e8  # area of "no box here"


class ScaledFCOSHead(FCOSHead):
    """detectron2's `FCOSHead` with one learnable factor per level on the box distances, then ReLU.

    adet/modeling/fcos/fcos.py:218-222 (USE_SCALE, USE_RELU). Arguments are those of `FCOSHead`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(1)) for _ in range(self._num_features)])

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Maps of each level: (N, K, H, W) logits, (N, 4, H, W) distances in strides, (N, 1, H, W)."""
        logits, distances, quality = super().forward(features)
        return logits, [F.relu(s * d) for s, d in zip(self.scales, distances)], quality


@META_ARCH_REGISTRY.register()
class AuthorsFCOS(FCOS):
    """detectron2's `FCOS` with the authors' targets, losses and scores.

    What differs from detectron2's class (detectron2/modeling/meta_arch/fcos.py), each as in AdelaiDet:

    - losses are divided by this batch's count of positive points, averaged over ranks and at least 1;
      detectron2 takes a running mean of the local count that starts at 300 and is not in a checkpoint;
    - the box loss, 1 - GIoU, is weighted by centre-ness and divided by its sum; its GIoU is
      `distance_giou`, of distances in strides; detectron2 gives every point the same weight;
    - the range of box sizes of a level includes both ends;
    - of several boxes at a point the one of least area is taken exactly; detectron2 compares
      1e8 - area in float32, which rounds areas to 8;
    - a detection must have a class probability above `test_score_thresh` (0.05); its score,
      sqrt(class * centre-ness), ranks it. detectron2 puts the threshold (0.2) on the score.

    Arguments are those of `FCOS`; `head` is a `ScaledFCOSHead` in the published form.
    """

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per image: (R,) classes, K where there is no box, and the (R, 4) boxes of the points."""
        points = torch.cat([a.get_centers() for a in anchors])  # (R, 2)
        sizes = torch.cat([a.tensor[:, 2] - a.tensor[:, 0] for a in anchors])  # (R,) strides
        low, high = sizes * (REACH / 2), sizes * REACH
        low[: len(anchors[0])] = -1
        high[-len(anchors[-1]) :] = NO_BOX
        labels, boxes = [], []
        for image in gt_instances:
            if len(image) == 0:
                labels.append(image.gt_classes.new_full((len(points),), self.num_classes))
                boxes.append(points.new_zeros(len(points), 4))
                continue
            chosen, found = self._choose_boxes(points, sizes, low, high, image.gt_boxes)
            labels.append(torch.where(found, image.gt_classes[chosen], self.num_classes))
            boxes.append(image.gt_boxes.tensor[chosen])
        return labels, boxes

    def _choose_boxes(
        self, points: Tensor, sizes: Tensor, low: Tensor, high: Tensor, gt_boxes: Boxes
    ) -> tuple[Tensor, Tensor]:
        """(R,) index of the box of each point, and (R,) bool: whether there is one."""
        corners, centres = gt_boxes.tensor, gt_boxes.get_centers()  # (M, 4), (M, 2)
        radius = (self.center_sampling_radius * sizes)[:, None, None]  # (R, 1, 1)
        region_start = torch.maximum(centres - radius, corners[:, :2])  # (R, M, 2)
        region_end = torch.minimum(centres + radius, corners[:, 2:])
        point = points[:, None]  # (R, 1, 2)
        inside = torch.cat([point - region_start, region_end - point], 2).amin(2) > 0  # (R, M)
        reach = torch.cat([point - corners[:, :2], corners[:, 2:] - point], 2).amax(2)
        in_range = (reach >= low[:, None]) & (reach <= high[:, None])
        area = gt_boxes.area().expand(len(points), -1).masked_fill(~(inside & in_range), NO_BOX)
        least, chosen = area.min(1)
        return chosen, least < NO_BOX

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[Tensor],
        gt_labels: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        gt_boxes: list[Tensor],
        pred_centerness: list[Tensor],
    ) -> dict[str, Tensor]:
        """loss_fcos_cls, loss_fcos_loc, loss_fcos_ctr; per level (N, R_l, K), (N, R_l, 4), (N, R_l, 1)."""
        labels = torch.stack(gt_labels)  # (N, R)
        positive = labels != self.num_classes
        count = rank_mean(positive.sum()).clamp(min=1)
        get_event_storage().put_scalar("num_pos_anchors", positive.sum() / len(labels))

        logits = at_least_float32(cat(pred_logits, dim=1))  # (N, R, K)
        one_hot = F.one_hot(labels, self.num_classes + 1)[..., :-1].to(logits.dtype)
        loss_cls = sigmoid_focal_loss(
            logits, one_hot, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma, reduction="sum"
        )

        cells = Boxes.cat(anchors).tensor.expand(len(labels), -1, -1)[positive]  # (P, 4)
        distances = at_least_float32(cat(pred_anchor_deltas, dim=1)[positive])  # (P, 4)
        target = self.box2box_transform.get_deltas(cells, torch.stack(gt_boxes)[positive])
        weight = centerness(target)  # (P,)
        loss_loc = ((1 - distance_giou(distances, target)) * weight).sum()
        quality = at_least_float32(cat(pred_centerness, dim=1)[positive]).squeeze(1)
        loss_ctr = F.binary_cross_entropy_with_logits(quality, weight, reduction="sum")
        return {
            "loss_fcos_cls": loss_cls / count,
            "loss_fcos_loc": loss_loc / rank_mean(weight.sum()).clamp(min=1e-6),
            "loss_fcos_ctr": loss_ctr / count,
        }

    def forward_inference(
        self, images: ImageList, features: list[Tensor], predictions: list[list[Tensor]]
    ) -> list[Instances]:
        """Detections of each image in network coordinates, best first."""
        logits, distances, quality = self._transpose_dense_predictions(predictions, [self.num_classes, 4, 1])
        anchors = self.anchor_generator(features)
        results = []
        for index, image_size in enumerate(images.image_sizes):
            scores = [self._scores(o[index], c[index]) for o, c in zip(logits, quality)]
            deltas = [d[index] for d in distances]
            results.append(self.inference_single_image(anchors, scores, deltas, image_size))
        return results

    def _scores(self, logits: Tensor, quality: Tensor) -> Tensor:
        """(R_l, K) scores, zero where the class probability is not above the threshold."""
        probability = at_least_float32(logits).sigmoid()
        score = (probability * at_least_float32(quality).sigmoid()).sqrt()
        return score.masked_fill(probability <= self.test_score_thresh, 0)

    def inference_single_image(
        self,
        anchors: list[Boxes],
        box_cls: list[Tensor],
        box_delta: list[Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """As detectron2's, of all scores above zero: those below the threshold are zero already."""
        found = self._decode_multi_level_predictions(
            anchors, box_cls, box_delta, 0.0, self.test_topk_candidates, image_size
        )
        kept = batched_nms(found.pred_boxes.tensor, found.scores, found.pred_classes, self.test_nms_thresh)
        return found[kept[: self.max_detections_per_image]]
