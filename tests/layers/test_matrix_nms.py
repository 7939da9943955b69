"""Matrix NMS and point NMS: AdelaiDet's numbers, hand examples, properties."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from densessl.layers.matrix_nms import matrix_nms, point_nms

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "modeling"))
from solov2_golden import load, unpack

torch.set_num_threads(1)


def bars(*ranges):
    """Masks of one row: pixels [start, end) of 12."""
    masks = torch.zeros(len(ranges), 1, 12, dtype=torch.bool)
    for mask, (start, end) in zip(masks, ranges):
        mask[0, start:end] = True
    return masks


@pytest.mark.parametrize(
    ("name", "kernel", "sigma"),
    [("gaussian_2p0", "gaussian", 2.0), ("gaussian_0p5", "gaussian", 0.5), ("linear_2p0", "linear", 2.0)],
)
def test_golden(name, kernel, sigma):
    data = load("nms_s5")
    scores = matrix_nms(unpack(data["masks"], data["size"]), data["labels"], data["scores"], kernel, sigma)
    assert_close(scores, data[name], rtol=0, atol=1e-6)
    assert (scores < 0.9 * data["scores"]).sum() >= 2


def test_three_masks_by_hand():
    # pairs of neighbours share 4 of 8 pixels (IoU 0.5), the first and the last nothing
    masks, scores = bars((0, 6), (2, 8), (6, 12)), torch.tensor([0.9, 0.8, 0.7])
    same = torch.zeros(3, dtype=torch.long)
    decay = math.exp(-2 * 0.25)
    # third: IoU 2/10 with the second, which the first suppresses by `decay` itself: no loss
    third = min(1.0, math.exp(-2 * 0.04) / decay)
    assert_close(matrix_nms(masks, same, scores), torch.tensor([0.9, 0.8 * decay, 0.7 * third]))
    assert_close(matrix_nms(masks, same, scores, "linear"), torch.tensor([0.9, 0.8 * 0.5, 0.7]))
    # another class is no rival
    assert_close(matrix_nms(masks, torch.tensor([0, 1, 2]), scores), scores)


def test_slow_definition():
    generator = torch.Generator().manual_seed(2)
    masks = torch.rand(9, 6, 6, generator=generator) > 0.4
    classes = torch.randint(2, (9,), generator=generator)
    scores = torch.rand(9, generator=generator).sort(descending=True).values

    def iou(i, j):
        if classes[i] != classes[j]:
            return 0.0
        return float((masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum())

    for kernel, f in (("gaussian", lambda x: math.exp(-2 * x * x)), ("linear", lambda x: 1 - x)):
        expected = []
        for j in range(9):
            factors = [1.0]
            for i in range(j):
                suppressed = max([iou(k, i) for k in range(i)], default=0.0)
                factors.append(f(iou(i, j)) / f(suppressed))
            expected.append(float(scores[j]) * min(factors))
        assert_close(matrix_nms(masks, classes, scores, kernel), torch.tensor(expected))


def test_copies():
    masks, classes = bars((0, 6), (0, 6), (0, 6), (6, 12)), torch.zeros(4, dtype=torch.long)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert_close(matrix_nms(masks, classes, scores, "linear"), torch.tensor([0.9, 0.0, 0.0, 0.6]))
    decay = math.exp(-2)
    assert_close(matrix_nms(masks, classes, scores), torch.tensor([0.9, 0.8 * decay, 0.7 * decay, 0.6]))


def test_scores_never_grow_and_the_best_stays():
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(30, 5, 5, generator=generator) > 0.6
    masks = masks[masks.any(2).any(1)]
    scores = torch.rand(len(masks), generator=generator).sort(descending=True).values
    classes = torch.zeros(len(masks), dtype=torch.long)
    for kernel in ("gaussian", "linear"):
        lowered = matrix_nms(masks, classes, scores, kernel)
        assert (lowered <= scores).all()
        assert (lowered >= 0).all()
        assert lowered[0] == scores[0]


def test_nothing_and_unknown_kernel():
    none = torch.zeros(0)
    assert matrix_nms(torch.zeros(0, 3, 3, dtype=torch.bool), none.long(), none).shape == (0,)
    with pytest.raises(ValueError, match="gaussian, linear"):
        matrix_nms(bars((0, 2)), torch.zeros(1, dtype=torch.long), torch.ones(1), "box")


def test_point_nms():
    data = load("nms_s5")
    assert torch.equal(point_nms(data["heat"]), data["point"])
    heat = torch.tensor([[[[0.9, 0.8, 0.7], [0.1, 0.8, 0.9], [0.2, 0.1, 0.3]]]])
    # 0.8 right of 0.9 goes, 0.7 right of 0.8 goes, 0.9 in the middle stays, 0.2 below 0.1 stays
    expected = torch.tensor([[[[0.9, 0.0, 0.0], [0.0, 0.0, 0.9], [0.2, 0.0, 0.0]]]])
    assert torch.equal(point_nms(heat), expected)
