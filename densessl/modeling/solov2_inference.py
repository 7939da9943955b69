"""From SOLOv2's predictions of one image to instances.

"SOLOv2: Dynamic and Fast Instance Segmentation" (https://arxiv.org/abs/2003.10152), "Inference";
authors' code aim-uofa/AdelaiDet, adet/modeling/solov2/solov2.py (inference_single_image). Letters: P cells of
all levels, C classes, E length of a mask kernel, M candidates.
"""

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from densessl.layers.matrix_nms import matrix_nms


@torch.no_grad()
def segment_image(
    scores: Tensor,
    kernels: Tensor,
    mask_feature: Tensor,
    *,
    smallest_area: Tensor,
    stride: int,
    image_size: tuple[int, int],
    output_size: tuple[int, int],
    score_threshold: float = 0.1,
    mask_threshold: float = 0.5,
    update_threshold: float = 0.05,
    pre_nms_topk: int = 500,
    max_detections: int = 100,
    nms_kernel: str = "gaussian",
    nms_sigma: float = 2.0,
) -> Instances:
    """Makes a mask of every cell with a score, weighs the score by the mask, and removes duplicates.

    Differences from the authors' code: maps are enlarged by `stride`, where theirs takes
    ceil(height / map height), which is smaller once a quarter of the height is padding (a batch of several
    images, or tiny ones); boxes are those of the masks, where theirs are zeros; nothing found gives empty
    fields of the right shapes.

    Args:
        scores: (P, C) in [0, 1], after `point_nms`.
        kernels: (P, E).
        mask_feature: (E, H, W) of the padded image.
        smallest_area: (P,) a mask must have more pixels than this, at the size of the features.
        stride: of the mask features in the padded image.
        image_size: height and width in the network, without padding.
        output_size: height and width wanted.
        score_threshold: candidates have a score above it.
        mask_threshold: probability above which a pixel belongs to the mask.
        update_threshold: scores below it after matrix NMS are dropped.
        pre_nms_topk: candidates that enter matrix NMS, best first.
        max_detections: instances to return at most.
        nms_kernel, nms_sigma: see `matrix_nms`.

    Returns:
        Instances of size `output_size`, best score first: pred_masks (M, *output_size) bool, scores,
        pred_classes, pred_boxes. A mask can be empty when the output is much smaller than the image.
    """
    cell, classes = (scores > score_threshold).nonzero().unbind(1)
    probability = (kernels[cell] @ mask_feature.flatten(1)).sigmoid().unflatten(1, mask_feature.shape[1:])
    inside = probability > mask_threshold
    area = inside.sum((1, 2))
    # "maskness": mean probability of the mask's pixels
    scores = scores[cell, classes] * (probability * inside).sum((1, 2)) / area.clamp(min=1)

    candidate = (area > smallest_area[cell]).nonzero().squeeze(1)
    candidate = candidate[_best(scores[candidate], pre_nms_topk)]
    scores = matrix_nms(inside[candidate], classes[candidate], scores[candidate], nms_kernel, nms_sigma)
    kept = (scores >= update_threshold).nonzero().squeeze(1)
    kept = kept[_best(scores[kept], max_detections)]

    candidate = candidate[kept]
    masks = _enlarge(probability[candidate], stride, image_size, output_size) > mask_threshold
    result = Instances(output_size)
    result.pred_masks = masks
    result.scores = scores[kept]
    result.pred_classes = classes[candidate]
    result.pred_boxes = BitMasks(masks).get_bounding_boxes().to(masks.device)
    return result


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the highest `count` scores, descending, equal ones in order."""
    return scores.argsort(descending=True, stable=True)[:count]


def _enlarge(maps: Tensor, stride: int, image_size: tuple[int, int], output_size: tuple[int, int]) -> Tensor:
    """(M, H, W) of the padded image -> (M, *output_size), bilinear, twice: padding is cut off in between."""
    maps = F.interpolate(maps[:, None], scale_factor=stride, mode="bilinear")
    maps = maps[:, :, : image_size[0], : image_size[1]]
    return F.interpolate(maps, size=output_size, mode="bilinear")[:, 0]
