"""Colour jitter, grayscale and blur of one uint8 view on the CPU, with OpenCV.

MoCo v2 (https://arxiv.org/abs/2003.04297), DenseCL and SimSiam: colour jitter (0.4, 0.4, 0.4, 0.1) with
probability 0.8, grayscale 0.2, blur of sigma 0.1-2 pixels with probability 0.5; MoCo v1: grayscale 0.2,
then colour jitter always, no blur (facebookresearch/moco `main_moco.py`). The jitter is torchvision's
`ColorJitter`: four operations in random order, each with its own factor.

Parameters are drawn first, as one float32 vector whose layout `densessl.layers.photometric` defines; that
module applies the same vectors to a batch on the device. Every operation here rounds and clamps to uint8,
as PIL's do. Deliberate differences from the published PIL stack, measured on photographs in levels of 255
(tests/data_views/test_photometric.py bounds them a little above):

* PIL truncates brightness, contrast and saturation where we round: each leaves it 0.4 darker (1 at most).
* PIL's hue shift goes through 8-bit hue, saturation and value, truncated: 0.7 off on average, up to 7. Ours
  goes through float32 and is within 0.5 of torchvision's shift of float images.
* PIL's GaussianBlur is three box blurs of the right variance; ours is the Gaussian within 3 sigma. They
  differ by 0.5 on average, up to 26 beside hard edges.

Two faster forms were measured and not taken. One 3x4 map for all but the hue, without the clamps in between,
changes 8.5 % of the values by more than 1 (0.6 on average, up to 32); all four maps take 0.1 ms of a view.
A rotation in YIQ, which the map could absorb, is another law than torchvision's shift in HSV: 10 off on
average over views, 30 in the worst.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from densessl.errors import ConfigError
from densessl.layers.photometric import (
    BLUR_RADIUS_PER_SIGMA,
    BRIGHTNESS,
    CONTRAST,
    GRAYSCALE,
    HUE,
    LUMA,
    NONE,
    NUM_PARAMS,
    ORDER,
    SATURATION,
    SIGMA,
)

_LUMA_ROWS = np.tile(np.float32(LUMA), (3, 1))  # (3, 3): every output channel is the luma
_IDENTITY = np.eye(3, dtype=np.float32)


class PhotometricAugmentation:
    """Law from which the photometric parameters of a view are drawn. Defaults: MoCo v2.

    Args:
        brightness, contrast, saturation: strength s; the factor is uniform in [max(0, 1 - s), 1 + s].
        hue: strength in turns, at most 0.5; the shift is uniform in [-hue, hue].
        jitter_prob: probability of the four operations above, together, in random order.
        grayscale_prob: probability of grayscale.
        grayscale_first: grayscale before the colour jitter (MoCo v1) instead of after it.
        blur_prob: probability of the blur, which comes last.
        blur_sigma: least and greatest standard deviation in pixels of the view; drawn uniformly.
    """

    def __init__(
        self,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
        jitter_prob: float = 0.8,
        grayscale_prob: float = 0.2,
        grayscale_first: bool = False,
        blur_prob: float = 0.5,
        blur_sigma: Sequence[float] = (0.1, 2.0),
    ) -> None:
        if not 0 <= hue <= 0.5:
            raise ConfigError(f"photometric: hue must be within [0, 0.5] turns, got {hue}")
        if min(brightness, contrast, saturation) < 0:
            raise ConfigError(
                f"photometric: strengths must not be negative, got {(brightness, contrast, saturation)}"
            )
        probabilities = {"jitter": jitter_prob, "grayscale": grayscale_prob, "blur": blur_prob}
        for name, value in probabilities.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"photometric: {name}_prob must be within [0, 1], got {value}")
        if not 0 < blur_sigma[0] <= blur_sigma[1]:
            raise ConfigError(
                f"photometric: blur_sigma must be (least, greatest), both positive, got {tuple(blur_sigma)}"
            )
        self.strength = (brightness, contrast, saturation)
        self.hue = hue
        self.jitter_prob = jitter_prob
        self.grayscale_prob = grayscale_prob
        self.grayscale_first = grayscale_first
        self.blur_prob = blur_prob
        self.blur_sigma = tuple(blur_sigma)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the parameters of one view: float32 (P,), layout in `densessl.layers.photometric`."""
        params = np.zeros(NUM_PARAMS, dtype=np.float32)
        params[[BRIGHTNESS, CONTRAST, SATURATION]] = 1.0
        params[ORDER] = NONE
        order: list[int] = []
        if rng.random() < self.jitter_prob:
            order = rng.permutation(4).tolist()
            for index, strength in enumerate(self.strength):
                params[index] = rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength)
            params[HUE] = rng.uniform(-self.hue, self.hue)
        if rng.random() < self.grayscale_prob:
            order.insert(0 if self.grayscale_first else len(order), GRAYSCALE)
        if rng.random() < self.blur_prob:
            params[SIGMA] = rng.uniform(*self.blur_sigma)
        params[ORDER][: len(order)] = order
        return params


def apply_to_view(view: np.ndarray, params: np.ndarray) -> np.ndarray:
    """Apply drawn parameters to one view.

    Args:
        view: (3, H, W) uint8 RGB, C-contiguous.
        params: (P,) float32 from `PhotometricAugmentation.draw`.

    Returns:
        (3, H, W) uint8, C-contiguous; `view` itself when there is nothing to do.
    """
    order = [int(code) for code in params[ORDER] if code != NONE]
    sigma = float(params[SIGMA])
    if not order and sigma == 0:
        return view
    image = cv2.merge(list(view))  # (H, W, 3), which OpenCV's colour code wants
    for code in order:
        if code == HUE:
            image = shift_hue(image, float(params[HUE]))
        else:
            image = blend(image, code, 0.0 if code == GRAYSCALE else float(params[code]))
    if sigma > 0:
        image = blur(image, sigma)
    result = np.empty_like(view)
    cv2.split(image, list(result))
    return result


def blend(image: np.ndarray, operation: int, factor: float) -> np.ndarray:
    """`factor * pixel + (1 - factor) * reference`, rounded and clamped to uint8.

    The reference is black for BRIGHTNESS, the mean luma (rounded, as in PIL) for CONTRAST, the pixel's own
    luma for SATURATION and for GRAYSCALE, which is saturation with factor 0.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    matrix = np.zeros((3, 4), dtype=np.float32)
    matrix[:, :3] = factor * _IDENTITY
    if operation == CONTRAST:
        luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        matrix[:, 3] = (1.0 - factor) * math.floor(cv2.mean(luma)[0] + 0.5)
    elif operation in (SATURATION, GRAYSCALE):
        matrix[:, :3] += (1.0 - factor) * _LUMA_ROWS
    return cv2.transform(image, matrix)


def shift_hue(image: np.ndarray, turns: float) -> np.ndarray:
    """Turn the hue in HSV space by `turns` in [-0.5, 0.5]; (H, W, 3) uint8 RGB -> the same."""
    hsv = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
    degrees = 360.0 * (turns % 1.0)  # positive, so that the hue stays in [0, 720), which HSV2RGB wraps
    cv2.add(hsv, (degrees, 0.0, 0.0, 0.0), hsv)
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W, 3) uint8, edges repeated, kernel within 3 sigma of the centre.

    PIL repeats edges too. The customary fixed kernel of 23 taps gives the same and costs four times this.
    """
    width = 2 * math.ceil(BLUR_RADIUS_PER_SIGMA * sigma) + 1
    return cv2.GaussianBlur(image, (width, width), sigma, borderType=cv2.BORDER_REPLICATE)
