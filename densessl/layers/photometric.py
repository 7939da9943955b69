"""Colour jitter, grayscale and blur of a whole batch on its device, from parameters drawn on the CPU.

The operations are torchvision's (`torchvision/transforms/_functional_tensor.py`: `adjust_brightness`,
`adjust_contrast`, `adjust_saturation`, `adjust_hue`, `rgb_to_grayscale`) and a Gaussian blur, with other
parameters for each image. The same parameters give the same image, up to rounding, in
`densessl.data.transforms.photometric`, which works on one uint8 image on the CPU.

Layout of the parameters of one image, float32 of length `NUM_PARAMS` (P = 10):

    0  BRIGHTNESS  factor, 1 = unchanged
    1  CONTRAST    factor, 1 = unchanged
    2  SATURATION  factor, 1 = unchanged
    3  HUE         shift in turns, in [-0.5, 0.5], 0 = unchanged
    4  SIGMA       standard deviation of the blur in pixels of the view, 0 = no blur; always comes last
    5-9 ORDER      what to do first, second, ...: one of the four indices above, GRAYSCALE (4),
                   or NONE (-1); each at most once, the NONE after the others

Each colour operation clamps to the value range, as torchvision's do, so their order matters and several
do not merge into one affine map. Legend: N images, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
SIGMA = 4
ORDER = slice(5, 10)
NUM_PARAMS = 10
GRAYSCALE, NONE = 4, -1  # operations that appear in ORDER only

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, PIL's mode "L"
BLUR_RADIUS_PER_SIGMA = 3.0  # taps within ceil(3 sigma) of the centre: 99.7 % of the Gaussian


def apply_photometric(images: Tensor, params: Tensor) -> Tensor:
    """Colour jitter, grayscale and blur with the parameters of each image.

    Makes no host synchronisation. Computes in float32 whatever the autocast state.

    Args:
        images: (N, 3, H, W) floating point RGB in [0, 255].
        params: (N, P) float32 on the same device, layout in the module's docstring.

    Returns:
        (N, 3, H, W) float32 in [0, 255], up to rounding in the last digits.
    """
    with torch.autocast(images.device.type, enabled=False):
        images = images.float()
        own, gray, mean, before_hue = _operations(params)
        # The only operation that is not a combination of pixel, luma and mean is the hue shift. At most four
        # others stand before it and four after, so it is computed once, between two runs of masked slots.
        for slot in range(4):
            images = _blend(images, own, gray, mean, before_hue, slot)
        images = shift_hue(images, torch.where(_is_used(params, HUE), params[:, HUE], 0.0))
        for slot in range(1, 5):
            images = _blend(images, own, gray, mean, ~before_hue, slot)
        return blur(images, params[:, SIGMA])


def _is_used(params: Tensor, operation: int) -> Tensor:
    return (params[:, ORDER] == operation).any(dim=1)  # (N,)


def _operations(params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every slot of ORDER as `own * pixel + gray * luma(pixel) + mean * mean(luma)`.

    Returns:
        own, gray, mean: (N, 5) weights; before_hue: (N, 5) bool, slots that stand before the hue shift.
    """
    order = params[:, ORDER]
    factor = params.gather(1, order.long().clamp(BRIGHTNESS, SATURATION))
    is_gray = order == GRAYSCALE
    has_factor = (order >= BRIGHTNESS) & (order <= SATURATION)
    own = torch.where(has_factor, factor, 1.0 - is_gray.float())
    gray = torch.where(order == SATURATION, 1.0 - factor, is_gray.float())
    mean = torch.where(order == CONTRAST, 1.0 - factor, 0.0)
    before_hue = (order == HUE).cumsum(dim=1) == 0
    return own, gray, mean, before_hue


def _blend(images: Tensor, own: Tensor, gray: Tensor, mean: Tensor, active: Tensor, slot: int) -> Tensor:
    """Do what stands in one slot of ORDER, for the images where the slot is active; clamp."""
    active, shape = active[:, slot], (-1, 1, 1, 1)
    own = torch.where(active, own[:, slot], 1.0).view(shape)
    gray = torch.where(active, gray[:, slot], 0.0).view(shape)
    mean = torch.where(active, mean[:, slot], 0.0).view(shape)
    red, green, blue = images.split(1, dim=1)
    luma = (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])  # (N, 1, H, W)
    base = torch.addcmul(mean * luma.mean(dim=(2, 3), keepdim=True), gray, luma)
    return torch.addcmul(base, own, images).clamp_(0, 255)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue in HSV space, value and saturation kept.

    With V the largest and C the range of the three channels and h the hue in sixths of a turn, channel
    n = 5, 3, 1 (red, green, blue) is V - C max(0, min(k, 4 - k, 1)), k = (n + h) mod 6
    (https://en.wikipedia.org/wiki/HSL_and_HSV, "HSV to RGB alternative"): no sixfold case distinction.

    Args:
        images: (N, 3, H, W) float RGB, any non-negative scale.
        turns: (N,) shift in turns; whole numbers change nothing.
    """
    red, green, blue = images.split(1, dim=1)  # (N, 1, H, W)
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    safe = torch.where(chroma > 0, chroma, 1.0)  # a gray pixel has no hue; any will do, since C is 0
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    hue = hue + 6.0 * turns.view(-1, 1, 1, 1)
    channel = 5.0 - 2.0 * torch.arange(3, device=images.device).view(1, 3, 1, 1)
    k = torch.remainder(channel + hue, 6.0)  # (N, 3, H, W)
    return value - chroma * torch.minimum(k, 4.0 - k).clamp_(0.0, 1.0)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with one sigma for each image, edges repeated.

    As two products with banded matrices, K_h X K_w^T, instead of convolutions: the width of a convolution
    kernel must be known to the host, which would have to wait for the device to learn the largest sigma,
    and a kernel for the largest sigma allowed is what most images do not need.

    Args:
        images: (N, 3, H, W) float.
        sigma: (N,) in pixels; 0 leaves the image as it is.
    """
    height, width = images.shape[-2:]
    rows = _blur_matrix(sigma, height)
    columns = rows if height == width else _blur_matrix(sigma, width)
    return rows[:, None] @ images @ columns[:, None].transpose(-1, -2)


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """(N, size, size): row i holds the weights of every pixel in blurred pixel i."""
    distance = torch.arange(size + 1, device=sigma.device)
    sigma = sigma[:, None]
    weight = torch.exp(-0.5 * (distance / sigma.clamp_min(1e-3)).square())
    weight = weight * (distance <= torch.ceil(BLUR_RADIUS_PER_SIGMA * sigma))
    weight = weight / (2.0 * weight.sum(dim=1, keepdim=True) - weight[:, :1])  # (N, size + 1), one side
    # Weight that falls beyond an edge goes to the pixel at that edge: beyond[d] = sum of weight[d:].
    beyond = weight.flip(1).cumsum(dim=1).flip(1)[:, 1:]  # (N, size), of row i beyond the first pixel
    index = distance[:size]
    matrix = weight[:, (index[:, None] - index[None, :]).abs()]
    matrix[:, :, 0] += beyond
    matrix[:, :, -1] += beyond.flip(1)
    return matrix
