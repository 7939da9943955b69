"""The authors' FCOS against an independent implementation: one point, one box, one number at a time."""

import math

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from densessl.losses.fcos import centerness, distance_giou
from densessl.modeling.meta_arch.fcos import AuthorsFCOS, ScaledFCOSHead

CLASSES, STRIDES, SIZE = 3, (8, 16, 32, 64, 128), 256
LIMITS = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))  # adet: SIZES_OF_INTEREST 64 128 256 512


class Pyramid(Backbone):
    """Five pooled maps; only their shapes matter here."""

    def forward(self, x):
        return {f"p{i + 3}": nn.functional.avg_pool2d(x[:, :1], s).expand(-1, 32, -1, -1) for i, s in
                enumerate(STRIDES)}  # fmt: skip

    def output_shape(self):
        return {f"p{i + 3}": ShapeSpec(channels=32, stride=s) for i, s in enumerate(STRIDES)}


def model(**options) -> AuthorsFCOS:
    torch.manual_seed(0)
    head = ScaledFCOSHead(
        input_shape=[ShapeSpec(channels=32)] * 5, conv_dims=[32] * 4, num_classes=CLASSES, norm="GN"
    )
    return AuthorsFCOS(
        backbone=Pyramid(),
        head=head,
        head_in_features=[f"p{i}" for i in range(3, 8)],
        num_classes=CLASSES,
        test_score_thresh=0.05,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
        **options,
    )


def truth(boxes, classes) -> Instances:
    out = Instances((SIZE, SIZE))
    out.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    out.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return out


# nested, equal, overlapping, at the border, exactly 64 wide on one side, thin; and an image without boxes
IMAGES = [
    truth(
        [[10, 12, 90, 100], [30, 30, 60, 62], [0, 0, 256, 256], [100, 4, 228, 250], [40, 140, 104, 200]],
        [0, 1, 2, 0, 1],
    ),
    truth([[200.5, 3.25, 251, 240], [4, 4, 20, 252], [64, 64, 192, 192], [64, 64, 192, 192.5]], [2, 2, 1, 0]),
    truth([], []),
]


def points():
    """(stride, level, x, y) of every point, in the order of the flattened maps."""
    for level, stride in enumerate(STRIDES):
        for row in range(SIZE // stride):
            for column in range(SIZE // stride):
                yield stride, level, column * stride + stride // 2, row * stride + stride // 2


def slow_target(image: Instances, stride, level, x, y):
    """(class, (l, t, r, b) in strides) of a point, or (CLASSES, None); the text of adet's rules in loops."""
    best, best_area = None, 1e8
    low, high = LIMITS[level]
    for index, (x1, y1, x2, y2) in enumerate(image.gt_boxes.tensor.double().tolist()):
        centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
        left, right = max(centre_x - 1.5 * stride, x1), min(centre_x + 1.5 * stride, x2)
        top, bottom = max(centre_y - 1.5 * stride, y1), min(centre_y + 1.5 * stride, y2)
        if not (left < x < right and top < y < bottom):
            continue
        if not low <= max(x - x1, y - y1, x2 - x, y2 - y) <= high:
            continue
        area = (x2 - x1) * (y2 - y1)
        if area < best_area:
            best, best_area = index, area
    if best is None:
        return CLASSES, None
    x1, y1, x2, y2 = image.gt_boxes.tensor[best].double().tolist()
    return int(image.gt_classes[best]), [v / stride for v in (x - x1, y - y1, x2 - x, y2 - y)]


def slow_centerness(box):
    left, top, right, bottom = box
    return math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))


def slow_giou(a, b):
    area_a, area_b = (a[0] + a[2]) * (a[1] + a[3]), (b[0] + b[2]) * (b[1] + b[3])
    small = [min(p, q) for p, q in zip(a, b)]
    large = [max(p, q) for p, q in zip(a, b)]
    both = (small[0] + small[2]) * (small[1] + small[3])
    hull = (large[0] + large[2]) * (large[1] + large[3])
    union = area_a + area_b - both
    return (both + 1) / (union + 1) - (hull - union) / hull


def slow_losses(logits, distances, quality):
    """The three losses of IMAGES from (N, R, K), (N, R, 4), (N, R) arrays."""
    cls = loc = ctr = weights = 0.0
    positives = 0
    for n, image in enumerate(IMAGES):
        for r, place in enumerate(points()):
            label, box = slow_target(image, *place)
            for k in range(CLASSES):
                p = 1 / (1 + math.exp(-logits[n, r, k]))
                if k == label:
                    cls -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    cls -= 0.75 * p**2 * math.log(1 - p)
            if box is not None:
                positives += 1
                c = slow_centerness(box)
                loc += (1 - slow_giou(distances[n, r], box)) * c
                weights += c
                p = 1 / (1 + math.exp(-quality[n, r]))
                ctr -= c * math.log(p) + (1 - c) * math.log(1 - p)
    return cls / max(positives, 1), loc / max(weights, 1e-6), ctr / max(positives, 1)


def random_maps(images, seed=0):
    """Head outputs by level: (N, K, H, W), (N, 4, H, W) not negative, (N, 1, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(images, c, SIZE // s, SIZE // s) for s in STRIDES for c in (CLASSES, 4, 1)]
    maps = [torch.randn(size, generator=generator) for size in sizes]
    return maps[0::3], [m.abs() * 2 for m in maps[1::3]], maps[2::3]


def flat(maps):
    """(N, R, C) float64 of maps by level, points in the order of `points`."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1).double().numpy()


def loss_of(detector, maps, images):
    features = [torch.zeros(1, 1, SIZE // s, SIZE // s) for s in STRIDES]
    with EventStorage(0):
        return detector.forward_training(None, features, list(maps), images)


def test_targets_equal_the_slow_ones():
    detector = model()
    anchors = detector.anchor_generator([torch.zeros(1, 1, SIZE // s, SIZE // s) for s in STRIDES])
    centres = torch.cat([a.get_centers() for a in anchors]).tolist()
    assert centres == [[x, y] for _, _, x, y in points()]
    labels, boxes = detector.label_anchors(anchors, IMAGES)
    seen = set()
    for n, image in enumerate(IMAGES):
        for r, place in enumerate(points()):
            label, box = slow_target(image, *place)
            assert int(labels[n][r]) == label, (n, place)
            if box is not None:
                stride, level, x, y = place
                seen.add(level)
                found = boxes[n][r].double().numpy()
                distances = np.array([x - found[0], y - found[1], found[2] - x, found[3] - y]) / stride
                np.testing.assert_allclose(distances, box, atol=1e-6)
    assert seen == {0, 1, 2}  # sides within a picture of 256 pixels are at most 256 away
    assert (labels[2] == CLASSES).all()


def test_both_ends_of_a_level_count():
    """A box whose farthest side is exactly 64 away belongs to P3 and to P4."""
    detector = model()
    anchors = detector.anchor_generator([torch.zeros(1, 1, SIZE // s, SIZE // s) for s in STRIDES])
    (labels,), _ = detector.label_anchors(anchors, [truth([[8, 8, 132, 40]], [1])])
    by_level = labels.split([len(a) for a in anchors])
    places = list(points())
    hit = {place for place, label in zip(places, labels.tolist()) if label == 1}
    assert (8, 0, 68, 20) in hit  # 132 - 68 = 64
    assert (16, 1, 72, 24) in hit  # 72 - 8 = 64
    assert [bool((level == 1).any()) for level in by_level] == [True, True, False, False, False]


def test_losses_equal_the_slow_ones():
    detector, maps = model(), random_maps(3)
    losses = loss_of(detector, maps, IMAGES)
    expected = slow_losses(flat(maps[0]), flat(maps[1]), flat(maps[2])[..., 0])
    assert list(losses) == ["loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"]
    assert [float(v) for v in losses.values()] == pytest.approx(expected, rel=1e-6)


def test_without_boxes_only_the_classes_have_a_loss_and_every_parameter_a_gradient():
    detector = model().train()
    batch = [{"image": torch.rand(3, SIZE, SIZE), "instances": truth([], [])}]
    with EventStorage(0):
        losses = detector(batch)
    assert losses["loss_fcos_loc"] == losses["loss_fcos_ctr"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_head_scales_each_level_and_is_not_negative():
    head = model().head
    assert [tuple(s.shape) for s in head.scales] == [(1,)] * 5
    assert all(s.item() == 1 for s in head.scales)
    features = [torch.randn(1, 32, 4, 4) for _ in STRIDES]
    _, before, _ = head(features)
    with torch.no_grad():
        head.scales[1].fill_(3.0)
    _, after, _ = head(features)
    assert all((d >= 0).all() for d in after)
    torch.testing.assert_close(after[1], 3 * before[1])
    torch.testing.assert_close(after[0], before[0])
    prior = 1 / (1 + math.exp(-head.cls_score.bias[0].item()))
    assert prior == pytest.approx(0.01)
    assert head.cls_subnet[0].weight.std().item() == pytest.approx(0.01, rel=0.05)


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    area = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return both / (area[0] + area[1] - both) if both else 0.0


def slow_detections(logits, distances, quality, candidates, nms, limit):
    """adet's rules for one image: threshold on the class, rank and score by sqrt(class * centre-ness)."""
    found = []
    for level in range(5):
        here = []
        for r, (stride, own, x, y) in enumerate(points()):
            for k in range(CLASSES):
                p = 1 / (1 + math.exp(-logits[r, k]))
                if own == level and p > 0.05:
                    left, top, right, bottom = distances[r] * stride
                    score = math.sqrt(p / (1 + math.exp(-quality[r])))
                    here.append((score, k, (x - left, y - top, x + right, y + bottom)))
        found += sorted(here, reverse=True)[:candidates]
    kept = []
    for score, k, box in sorted(found, reverse=True):
        if all(k != other or iou(box, b) <= nms for _, other, b in kept):
            kept.append((score, k, box))
    return kept[:limit]


def test_detections_equal_the_slow_ones():
    detector = model(test_topk_candidates=40, test_nms_thresh=0.6, max_detections_per_image=25).eval()
    logits, distances, quality = random_maps(1, seed=3)
    logits = [m - 3.5 for m in logits]  # about a third passes the threshold
    features = [torch.zeros(1, 1, SIZE // s, SIZE // s) for s in STRIDES]
    images = type("Images", (), {"image_sizes": [(SIZE, SIZE)]})
    expected = slow_detections(
        flat(logits)[0], flat(distances)[0], flat(quality)[0, :, 0], candidates=40, nms=0.6, limit=25
    )
    (found,) = detector.forward_inference(images, features, [logits, distances, quality])
    assert len(found) == len(expected) == 25
    assert found.pred_classes.tolist() == [k for _, k, _ in expected]
    np.testing.assert_allclose(found.scores.numpy(), [s for s, _, _ in expected], rtol=1e-5)
    np.testing.assert_allclose(found.pred_boxes.tensor.numpy(), [b for _, _, b in expected], atol=1e-3)


def test_a_low_class_is_no_detection_however_central():
    detector = model().eval()
    scores = detector._scores(torch.tensor([[-2.9446, -2.9442, 0.0]]), torch.tensor([[20.0]]))
    assert scores[0, 0] == 0  # probability just below 0.05
    assert scores[0, 1] == pytest.approx(math.sqrt(0.05), abs=1e-3)
    assert scores[0, 2] == pytest.approx(math.sqrt(0.5))


def test_loss_functions_on_paper_and_their_gradients():
    """The docstrings' numbers; equal boxes; an empty prediction stays finite."""
    one, wide = torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[1.0, 1, 3, 1]])
    assert distance_giou(one, wide).item() == pytest.approx(5 / 9)
    assert distance_giou(wide, wide).item() == pytest.approx(1.0)
    assert distance_giou(torch.zeros(1, 4), one).item() == pytest.approx(1 / 5)
    assert centerness(one).item() == 1.0
    assert centerness(wide).item() == pytest.approx(math.sqrt(1 / 3))
    prediction = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    target = torch.rand(5, 4, dtype=torch.float64) + 0.1
    assert torch.autograd.gradcheck(lambda p: distance_giou(p, target), prediction)
