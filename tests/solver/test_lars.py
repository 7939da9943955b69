"""The LARS of configs/common/optim.py against NVIDIA apex's LARC around SGD, written out."""

import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from densessl.config import get_config


def larc_sgd(values, gradients, lr, momentum, weight_decay, trust):
    """The arithmetic of apex/parallel/LARC.py (clip=False, eps=1e-8) and torch's SGD, in plain python."""
    velocity = [torch.zeros_like(value) for value in values]
    for step, step_gradients in enumerate(gradients):
        for i, gradient in enumerate(step_gradients):
            weight_norm, gradient_norm = values[i].norm().item(), gradient.norm().item()
            if weight_norm != 0 and gradient_norm != 0:
                rate = trust * weight_norm / (gradient_norm + weight_norm * weight_decay + 1e-8)
                gradient = rate * (gradient + weight_decay * values[i])
            velocity[i] = gradient if step == 0 else momentum * velocity[i] + gradient
            values[i] = values[i] - lr * velocity[i]
    return values


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
def test_lars_is_larc(weight_decay):
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    nn.init.zeros_(model.bias)  # a tensor that is zero takes its first gradient unscaled
    start = [p.detach().clone() for p in model.parameters()]
    node = get_config("common/optim.py").LARS
    assert (node.trust_coeff, node.trust_clip, node.eps, node.momentum) == (0.001, False, 1e-8, 0.9)
    node.weight_decay = weight_decay
    node.params.model = model
    optimizer = instantiate(node)
    gradients = [[torch.randn_like(p) for p in start] for _ in range(4)]
    for step in gradients:
        for parameter, gradient in zip(model.parameters(), step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    expected = larc_sgd(start, gradients, node.lr, 0.9, weight_decay, 0.001)
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-9, atol=1e-12)
