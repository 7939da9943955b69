"""SOLOv2: instance segmentation by location, without boxes.

"SOLOv2: Dynamic and Fast Instance Segmentation" (https://arxiv.org/abs/2003.10152) and "SOLO"
(https://arxiv.org/abs/1912.04488); authors' code aim-uofa/AdelaiDet, adet/modeling/solov2, whose arithmetic
tests/data/golden/solov2 records. Letters: N images, C classes, E length of a mask kernel, P cells of all
levels, M positives.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn

from densessl.errors import ConfigError
from densessl.layers.matrix_nms import KERNELS, point_nms
from densessl.losses.dice import dice_loss
from densessl.losses.precision import at_least_float32
from densessl.modeling.heads.solov2 import SOLOv2InstanceHead, SOLOv2MaskHead, split_levels
from densessl.modeling.solov2_inference import segment_image
from densessl.modeling.solov2_targets import SOLOv2Targets, assign_targets
from densessl.utils.events import log_metric


@META_ARCH_REGISTRY.register()
class SOLOv2(nn.Module):
    """Each grid cell near an object's centre says its class and the kernel that cuts its mask out of one map.

    Differences from the authors' code: a batch without objects trains (its mask loss is 0, where theirs
    fails); and with several processes both losses are divided by the positives of all of them, so that the
    loss does not depend on how images are spread over GPUs (`normalize_over_ranks`); micro-batches of one
    step have normalisers of their own. Those of the targets and of the inference are listed in
    `solov2_targets` and `solov2_inference`.

    Args:
        backbone: pyramid of maps with strides 4 to 64, each half as large as the one before.
        instance_head: categories and kernels on grids.
        mask_head: mask features; its output has the kernels' length and the first map's stride.
        num_classes: C, as in the instance head.
        pixel_mean, pixel_std: per channel, in [0, 255].
        input_format: colour order of the images, for checks and pictures.
        instance_in_features, mask_in_features: maps of the backbone, the largest first.
        instance_strides: of the maps after `split_levels`; masks of fewer pixels than that are dropped.
        scale_ranges: sizes of the objects of each level, in pixels of the network's input.
        sigma: side of the region of positive cells, as a share of the object's.
        category_weight, mask_weight: of the two losses.
        focal_alpha, focal_gamma: of the category loss.
        normalize_over_ranks: False divides by the positives of the own process, as the authors do.
        score_threshold, mask_threshold, update_threshold: of the inference, see `segment_image`.
        pre_nms_topk, max_detections_per_image, nms_kernel, nms_sigma: the same.

    Raises:
        ConfigError: a feature that the backbone does not have, levels that do not fit, another number of
            classes in the head, or an unknown kernel of matrix NMS.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        instance_head: SOLOv2InstanceHead,
        mask_head: SOLOv2MaskHead,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
        instance_in_features: Sequence[str] = ("p2", "p3", "p4", "p5", "p6"),
        mask_in_features: Sequence[str] = ("p2", "p3", "p4", "p5"),
        instance_strides: Sequence[int] = (8, 8, 16, 32, 32),
        scale_ranges: Sequence[Sequence[float]] = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)),
        sigma: float = 0.2,
        category_weight: float = 1.0,
        mask_weight: float = 3.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        normalize_over_ranks: bool = True,
        score_threshold: float = 0.1,
        mask_threshold: float = 0.5,
        update_threshold: float = 0.05,
        pre_nms_topk: int = 500,
        max_detections_per_image: int = 100,
        nms_kernel: str = "gaussian",
        nms_sigma: float = 2.0,
    ):
        super().__init__()
        self.backbone = backbone
        self.instance_head = instance_head
        self.mask_head = mask_head
        self.num_classes = num_classes
        self.num_grids = instance_head.num_grids
        self.input_format = input_format
        self.instance_in_features = tuple(instance_in_features)
        self.mask_in_features = tuple(mask_in_features)
        self.scale_ranges = tuple(map(tuple, scale_ranges))
        self.sigma = sigma
        self.category_weight = category_weight
        self.mask_weight = mask_weight
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.normalize_over_ranks = normalize_over_ranks
        self.inference_settings = {
            "score_threshold": score_threshold,
            "mask_threshold": mask_threshold,
            "update_threshold": update_threshold,
            "pre_nms_topk": pre_nms_topk,
            "max_detections": max_detections_per_image,
            "nms_kernel": nms_kernel,
            "nms_sigma": nms_sigma,
        }
        self._check(tuple(instance_strides))
        self.mask_stride = backbone.output_shape()[self.mask_in_features[0]].stride
        areas = [torch.full((size**2,), float(s)) for size, s in zip(self.num_grids, instance_strides)]
        self.register_buffer("smallest_area", torch.cat(areas), persistent=False)  # (P,)
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)

    def _check(self, instance_strides: tuple[int, ...]) -> None:
        known = self.backbone.output_shape()
        for argument in ("instance_in_features", "mask_in_features"):
            unknown = [name for name in getattr(self, argument) if name not in known]
            if unknown:
                raise ConfigError(
                    f"model.{argument}: {', '.join(unknown)} not among the backbone's {', '.join(known)}."
                )
        counts = {
            "instance_in_features": len(self.instance_in_features),
            "instance_head.num_grids": len(self.num_grids),
            "instance_strides": len(instance_strides),
            "scale_ranges": len(self.scale_ranges),
        }
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"model.{name} has {count}" for name, count in counts.items())
            raise ConfigError(f"SOLOv2 needs one entry per level in each: {listed}.")
        if self.instance_head.num_classes != self.num_classes:
            raise ConfigError(
                f"model.num_classes={self.num_classes}, but model.instance_head.num_classes="
                f'{self.instance_head.num_classes}; in a config write "${{..num_classes}}" in the head.'
            )
        kernel = self.inference_settings["nms_kernel"]
        if kernel not in KERNELS:
            raise ConfigError(f"model.nms_kernel={kernel!r}: use one of {', '.join(KERNELS)}.")

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Runs detectron2's batch.

        Args:
            batched_inputs: each {"image": (3, H, W) in [0, 255]}; in training "instances" with gt_boxes,
                gt_classes and gt_masks (bitmasks); in evaluation "height" and "width" of the output.

        Returns:
            Training: {"loss_category", "loss_mask"}, scalars. Evaluation: for each image {"instances":
            Instances with pred_masks, pred_boxes, scores, pred_classes at the output size}.
        """
        images = self.preprocess_image(batched_inputs)
        pyramid = self.backbone(images.tensor)
        logits, kernels = self.instance_head(split_levels([pyramid[f] for f in self.instance_in_features]))
        mask_features = self.mask_head([pyramid[f] for f in self.mask_in_features])  # (N, E, H / 4, W / 4)
        if not self.training:
            return self.inference(logits, kernels, mask_features, images.image_sizes, batched_inputs)
        targets = [
            assign_targets(
                item["instances"].to(self.device),
                feature_size=mask_features.shape[-2:],
                stride=self.mask_stride,
                num_classes=self.num_classes,
                num_grids=self.num_grids,
                scale_ranges=self.scale_ranges,
                sigma=self.sigma,
            )
            for item in batched_inputs
        ]
        return self.losses(_flatten(logits), _flatten(kernels), mask_features, targets)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalises, pads at the right and below, and stacks."""
        images = [item["image"].to(self.device, non_blocking=True) for item in batched_inputs]
        return ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def losses(
        self, logits: Tensor, kernels: Tensor, mask_features: Tensor, targets: list[SOLOv2Targets]
    ) -> dict[str, Tensor]:
        """Focal loss of all cells over (positive cells + 1), and the mean dice loss of all positives.

        Args:
            logits: (N, P, C).
            kernels: (N, P, E).
            mask_features: (N, E, H, W).
            targets: of each image.
        """
        category = torch.stack([target.category for target in targets])  # (N, P)
        positive = category < self.num_classes
        pairs = sum(len(target.cell) for target in targets)
        cells, pairs, ranks = self._over_ranks(positive.sum(), pairs)
        one_hot = F.one_hot(category, self.num_classes + 1)[..., :-1].to(logits.dtype)
        focal = sigmoid_focal_loss(logits, one_hot, self.focal_alpha, self.focal_gamma, reduction="sum")
        dice = sum(
            self._dice(kernel[target.cell], feature, target)
            for kernel, feature, target in zip(kernels, mask_features, targets, strict=True)
        )
        with torch.no_grad():
            log_metric("solov2/positives", cells / ranks)
            score = (at_least_float32(logits).sigmoid() * one_hot).sum() / positive.sum().clamp(min=1)
            log_metric("solov2/positive_score", score)  # near prior_prob: the category branch learns nothing
        # times the ranks: the gradients of all ranks are averaged afterwards
        return {
            "loss_category": self.category_weight * focal * ranks / (cells + 1),
            "loss_mask": self.mask_weight * dice * ranks / pairs.clamp(min=1),
        }

    def _dice(self, kernels: Tensor, mask_feature: Tensor, target: SOLOv2Targets) -> Tensor:
        """Sum of the dice losses of an image's M positives; 0, with gradients, for none."""
        masks = at_least_float32(kernels @ mask_feature.flatten(1)).sigmoid()  # (M, H * W)
        return dice_loss(masks, target.masks.flatten(1)[target.instance]).sum()

    def _over_ranks(self, cells: Tensor, pairs: int) -> tuple[Tensor, Tensor, int]:
        """Sums both counts over all processes; returns them and the number of processes."""
        counts = torch.stack([cells.float(), cells.new_tensor(pairs, dtype=torch.float32)])
        ranks = comm.get_world_size() if self.normalize_over_ranks else 1
        if ranks > 1:
            dist.all_reduce(counts)
        return counts[0], counts[1], ranks

    def inference(
        self,
        logits: list[Tensor],
        kernels: list[Tensor],
        mask_features: Tensor,
        image_sizes: list[tuple[int, int]],
        batched_inputs: list[dict[str, Any]],
    ) -> list[dict[str, Instances]]:
        """Detections of each image at its "height" and "width", by default those of its input."""
        scores = _flatten([point_nms(at_least_float32(level).sigmoid()) for level in logits])
        results = []
        for score, kernel, feature, size, item in zip(
            scores, _flatten(kernels), mask_features, image_sizes, batched_inputs, strict=True
        ):
            instances = segment_image(
                score,
                kernel,
                feature,
                smallest_area=self.smallest_area,
                stride=self.mask_stride,
                image_size=size,
                output_size=(item.get("height", size[0]), item.get("width", size[1])),
                **self.inference_settings,
            )
            results.append({"instances": instances})
        return results


def _flatten(levels: list[Tensor]) -> Tensor:
    """Per level (N, K, S, S) -> (N, P, K)."""
    return torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)
