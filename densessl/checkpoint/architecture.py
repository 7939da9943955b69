"""Tells from the tensors of a trunk which ResNet it is, and whether all of it is there.

"Deep Residual Learning for Image Recognition" (https://arxiv.org/abs/1512.03385), ResNeXt
(https://arxiv.org/abs/1611.05431). The stride of a bottleneck (1x1 or 3x3) and pooling leave no trace in the
tensors; they are conventions of the file.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

DEPTHS = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
COUNTER = "num_batches_tracked"
_AFFINE, _STATISTICS = ("weight", "bias"), ("running_mean", "running_var")


@dataclass(frozen=True)
class Architecture:
    """A ResNet with a 7x7 stem.

    Args:
        bottleneck: blocks of three convolutions, else of two.
        blocks: blocks per stage, from res2 on; three or four stages.
        width: channels of the 3x3 convolutions of res2.
        groups: groups of the 3x3 convolutions.
        statistics: whether the norms hold running means and variances.
    """

    bottleneck: bool
    blocks: tuple[int, ...]
    width: int
    groups: int
    statistics: bool

    @property
    def depth(self) -> int | None:
        """18, 34, 50, 101, 152, or None for another number of blocks."""
        return DEPTHS.get((self.bottleneck, self.blocks))

    def __str__(self) -> str:
        kind = "bottleneck" if self.bottleneck else "basic"
        name = f"ResNet-{self.depth}" if self.depth else f"ResNet of {self.blocks} {kind} blocks"
        if self.groups > 1:
            name = name.replace("ResNet", "ResNeXt") + f" {self.groups}x{self.width // self.groups}d"
        elif self.width != 64:
            name += f" of width {self.width}"
        return name

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of every tensor of the trunk, batch counters excepted."""
        shapes: dict[str, tuple[int, ...]] = {}

        def convolution(name: str, out: int, channels: int, size: int) -> None:
            shapes[f"{name}.weight"] = (out, channels, size, size)
            for leaf in _AFFINE + (_STATISTICS if self.statistics else ()):
                shapes[f"{name}.norm.{leaf}"] = (out,)

        convolution("stem.conv1", 64, 3, 7)
        channels = 64
        for stage, count in enumerate(self.blocks):
            inner = self.width << stage
            out = (256 if self.bottleneck else 64) << stage
            for block in range(count):
                name = f"res{stage + 2}.{block}"
                if channels != out:
                    convolution(f"{name}.shortcut", out, channels, 1)
                if self.bottleneck:
                    convolution(f"{name}.conv1", inner, channels, 1)
                    convolution(f"{name}.conv2", inner, inner // self.groups, 3)
                    convolution(f"{name}.conv3", out, inner, 1)
                else:
                    convolution(f"{name}.conv1", out, channels, 3)
                    convolution(f"{name}.conv2", out, out, 3)
                channels = out
        return shapes


def describe(trunk: Mapping[str, torch.Tensor]) -> Architecture | None:
    """The ResNet that a trunk with detectron2's names belongs to; None for other kinds of trunks."""
    if not {"stem.conv1.weight", "res2.0.conv2.weight"} <= trunk.keys():
        return None
    middle = trunk["res2.0.conv2.weight"]
    return Architecture(
        bottleneck="res2.0.conv3.weight" in trunk,
        blocks=_count_blocks(trunk),
        width=middle.shape[0],
        groups=middle.shape[0] // middle.shape[1],
        statistics="stem.conv1.norm.running_mean" in trunk,
    )


def _count_blocks(names: Collection[str]) -> tuple[int, ...]:
    counts: dict[int, int] = {}
    for name in names:
        match = re.match(r"res(\d)\.(\d+)\.", name)
        if match:
            stage, block = map(int, match.groups())
            counts[stage] = max(counts.get(stage, 0), block + 1)
    return tuple(counts.get(stage, 0) for stage in range(2, max(counts) + 1))


def defects(architecture: Architecture, trunk: Mapping[str, torch.Tensor]) -> dict[str, list[str]]:
    """What keeps a trunk from being that ResNet: {"missing", "without place", "of another shape": names}."""
    shapes = architecture.shapes()
    found = {name for name in trunk if name.startswith(("stem.", "res"))}
    return {
        "missing": [name for name in shapes if name not in found],
        "without place": sorted(
            name
            for name in found - shapes.keys()
            if not (name.endswith(f".norm.{COUNTER}") and name.replace(COUNTER, "weight") in shapes)
        ),
        "of another shape": [
            f"{name} {tuple(trunk[name].shape)} instead of {shape}"
            for name, shape in shapes.items()
            if name in found and tuple(trunk[name].shape) != shape
        ],
    }
