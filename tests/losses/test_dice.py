"""Dice loss: AdelaiDet's numbers, closed forms, precision."""

import sys
from pathlib import Path

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from torch.testing import assert_close

from densessl.losses.dice import EPSILON, dice_loss

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "modeling"))
from solov2_golden import load

torch.set_num_threads(1)


def test_golden_values_and_gradients():
    data = load("losses_s3")
    prediction = data["dice/prediction"].clone().requires_grad_(True)
    loss = dice_loss(prediction, data["dice/target"])
    assert_close(loss, data["dice/loss"], rtol=0, atol=1e-6)
    (loss * torch.arange(1, 6)).sum().backward()
    assert_close(prediction.grad, data["dice/gradient"], rtol=0, atol=1e-6)


def test_fvcore_focal_loss_is_the_one_that_was_recorded():
    data = load("losses_s3")
    logits = data["focal/logits"].clone().requires_grad_(True)
    loss = sigmoid_focal_loss(logits, data["focal/target"], 0.25, 2.0, reduction="sum")
    assert_close(loss, data["focal/sum"])
    loss.backward()
    assert_close(logits.grad, data["focal/gradient"], rtol=0, atol=1e-6)


def test_closed_forms():
    mask = torch.zeros(1, 10, 10, dtype=torch.bool)
    mask[:, :5] = True  # 50 pixels
    other = mask.flip(1)
    assert_close(dice_loss(mask.double(), mask), torch.tensor([2 * EPSILON / (100 + 2 * EPSILON)]).double())
    assert_close(dice_loss(mask.float(), other), torch.ones(1))
    assert_close(dice_loss(torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)), torch.ones(1))
    half = 0.5 * mask.double()
    assert_close(dice_loss(half, mask), torch.tensor([0.2]).double(), rtol=0, atol=1e-4)


def test_invariances():
    generator = torch.Generator().manual_seed(0)
    p, t = torch.rand(4, 60, generator=generator), torch.rand(4, 60, generator=generator) > 0.5
    loss = dice_loss(p, t)
    order = torch.randperm(60, generator=generator)
    assert_close(dice_loss(p[:, order], t[:, order]), loss)
    assert_close(dice_loss(p.view(4, 6, 10), t.view(4, 6, 10)), loss)
    assert_close(dice_loss(p[2:], t[2:]), loss[2:])
    assert ((loss > 0) & (loss < 1)).all()
    p = p.double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, t), p)


def test_half_precision_does_not_overflow():
    # 400 x 400 ones: the sum of squares is above the largest half
    ones = torch.ones(1, 400, 400)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.float16, torch.bfloat16):
            loss = dice_loss(ones.to(dtype), ones.bool())
            assert loss.dtype == torch.float32
            assert_close(loss, torch.zeros(1), rtol=0, atol=1e-6)


def test_no_masks_and_shapes():
    assert dice_loss(torch.zeros(0, 5), torch.zeros(0, 5)).shape == (0,)
    with pytest.raises(ValueError, match=r"\(2, 5\) and \(1, 5\)"):
        dice_loss(torch.zeros(2, 5), torch.zeros(1, 5))
