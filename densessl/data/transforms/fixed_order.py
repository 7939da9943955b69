"""PiCIE's law of colour: each operation by its own coin, always in the same order.

janghyuncho/PiCIE data/coco_train_dataset.py:81-166 and data/custom_transforms.py:33-115.
"""

from collections.abc import Sequence

import numpy as np

from densessl.errors import ConfigError
from densessl.layers.photometric import (
    BRIGHTNESS,
    CONTRAST,
    GRAYSCALE,
    HUE,
    NONE,
    NUM_PARAMS,
    ORDER,
    SATURATION,
    SIGMA,
)


class FixedOrderPhotometric:
    """Brightness, contrast, saturation, hue, grayscale, blur, in this order, each with its own probability.

    Args:
        brightness, contrast, saturation: strength s; the factor is uniform in [1 - s, 1 + s].
        hue: the shift is uniform in [-hue, hue] turns.
        jitter_prob: probability of each of these four.
        grayscale_prob: 0 in the authors' runs: their script asks for 0.2, and a misspelt word turns it off
            (utils.py:256, data/coco_train_dataset.py:126). DenseSiam has 0.2.
        blur_prob: probability of the blur.
        blur_sigma: least and greatest standard deviation in pixels; None: the authors' law, whose radius
            3.8 (q - 0.5) + 0.1 takes q < 0.5 from the coin itself, and Pillow squares it: |radius|, uniform
            on (0.1, 1.8) with twice the density below 0.1 (data/custom_transforms.py:80-97).

    Raises:
        ConfigError: a strength outside [0, 1], or 0.5 for the hue.
    """

    def __init__(
        self,
        brightness: float = 0.3,
        contrast: float = 0.3,
        saturation: float = 0.3,
        hue: float = 0.1,
        jitter_prob: float = 0.8,
        grayscale_prob: float = 0.0,
        blur_prob: float = 0.5,
        blur_sigma: Sequence[float] | None = None,
    ) -> None:
        self.strength = (brightness, contrast, saturation)
        if not all(0 <= s <= 1 for s in self.strength) or not 0 <= hue <= 0.5:
            raise ConfigError(
                f"photometric: brightness, contrast, saturation = {self.strength} must lie in [0, 1] and "
                f"hue={hue} in [0, 0.5]."
            )
        self.hue = hue
        self.jitter_prob, self.grayscale_prob, self.blur_prob = jitter_prob, grayscale_prob, blur_prob
        self.blur_sigma = None if blur_sigma is None else tuple(blur_sigma)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the parameters of one view: float32 (P,), layout in `densessl.layers.photometric`."""
        coins = rng.random(6)
        low, high = np.array([[1 - s, 1 + s] for s in self.strength] + [[-self.hue, self.hue]]).T
        sigma = rng.uniform(*self.blur_sigma) if self.blur_sigma else published_sigma(coins[5])
        return self.params(coins, rng.uniform(low, high), sigma)

    def params(self, coins: np.ndarray, factors: np.ndarray, sigma: float) -> np.ndarray:
        """The vector of given draws.

        Args:
            coins: 6 numbers in [0, 1), in the order of the operations; below the probability: do it.
            factors: of brightness, contrast, saturation, and the shift of hue in turns.
            sigma: of the blur, where its coin says so.
        """
        params = np.zeros(NUM_PARAMS, dtype=np.float32)
        params[[BRIGHTNESS, CONTRAST, SATURATION]] = 1.0
        params[ORDER] = NONE
        operations = (BRIGHTNESS, CONTRAST, SATURATION, HUE)
        order = [op for op, coin in zip(operations, coins) if coin < self.jitter_prob]
        params[order] = np.asarray(factors)[order]
        if coins[4] < self.grayscale_prob:
            order.append(GRAYSCALE)
        if coins[5] < self.blur_prob:
            params[SIGMA] = sigma
        params[ORDER][: len(order)] = order
        return params


def published_sigma(coin: float) -> float:
    """|radius| of the authors' blur for the coin that decided on it."""
    return abs(3.8 * (coin - 0.5) + 0.1)
