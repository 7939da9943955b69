"""Proves a conversion: a photograph through the source library's model and through detectron2's ResNet.

The source file is loaded, under its own names and strictly, into torchvision's, timm's or transformers'
ResNet; the written file is read back, recognised, and loaded into detectron2's with the conventions it
states. Both compute features of the same pixels in evaluation mode. Files whose names belong to no library
(detectron2, Detectron) are compared with the library that can place the strides as they have them.
"""

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from torch import nn

from densessl.checkpoint.architecture import Architecture
from densessl.checkpoint.layouts import BY_NAME
from densessl.checkpoint.names import rename_back
from densessl.checkpoint.reading import read_weights
from densessl.checkpoint.recognise import Weights, recognise
from densessl.checkpoint.tables import TORCHVISION_CONVENTIONS
from densessl.errors import CheckpointError, ConfigError

TOLERANCE = 1e-5
"""Largest difference allowed, relative to the largest absolute feature of its stage (at least 1)."""
SIZE = 224
_HEADS = ("fc.", "linear.", "classifier.")


@dataclass(frozen=True)
class Agreement:
    """The largest difference found.

    Args:
        library: package and version of the other model.
        stages: {stage: (largest absolute difference, largest absolute feature)}.
    """

    library: str
    stages: dict[str, tuple[float, float]]

    @property
    def worst(self) -> float:
        """Largest difference relative to the feature scale of its stage; scales below 1 count as 1."""
        return max(difference / max(scale, 1.0) for difference, scale in self.stages.values())

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {d:.1e} of {s:.3g}" for name, (d, s) in self.stages.items())
        return (
            f"verified against {self.library}: largest difference {self.worst:.1e} relative to the feature "
            f"scale (limit {TOLERANCE:.0e}); per stage: {parts}"
        )


def verify_conversion(source: Weights, written: str, photograph: str = "", model: str = "") -> Agreement:
    """Compares the features of both files on one photograph.

    Args:
        source: the file that was converted.
        written: path of the new file.
        photograph: path of an image; "" for a photograph that scikit-image ships.
        model: name of the source model in its library; "" to take it from the tensors.

    Raises:
        ConfigError: the library is not installed, or does not know the model.
        CheckpointError: the features differ by more than `TOLERANCE`, or a file cannot be compared.
    """
    resnet = source.resnet()
    if resnet is None or len(resnet.blocks) != 4:
        raise CheckpointError(
            f"--verify compares ResNets of four stages; the trunk of this {source.title} file is {resnet}."
        )
    result = recognise(read_weights(written), written)
    image = load_photograph(photograph, source.conventions)
    theirs, library = _library_model(source, resnet, model)
    ours = build_trunk(result)
    with torch.no_grad():
        expected, found = theirs(image), ours(image)
    stages = {
        name: (float((found[name] - map_).abs().max()), float(map_.abs().max()))
        for name, map_ in expected.items()
    }
    agreement = Agreement(library, stages)
    if not agreement.worst <= TOLERANCE:  # NaN included
        raise CheckpointError(f"The converted weights compute something else. Not {agreement}.")
    return agreement


def load_photograph(path: str, conventions: Mapping | None) -> torch.Tensor:
    """(1, 3, 224, 224) pixels of the centre of an image, normalised as the weights expect."""
    from PIL import Image

    if not path:
        _require("skimage", "scikit-image", "name a photograph: --verify PHOTO")
        from skimage import data

        picture = Image.fromarray(data.chelsea())
    else:
        try:
            picture = Image.open(path).convert("RGB")
        except OSError as error:
            raise ConfigError(f"--verify {path}: not an image that can be read ({error}).") from error
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.resize((SIZE, SIZE), Image.BILINEAR, (left, top, left + side, top + side))
    known = {k: v for k, v in (conventions or {}).items() if v is not None}
    values = {**TORCHVISION_CONVENTIONS, **known}
    pixels = np.asarray(picture, np.float32)
    if values["input_format"] == "BGR":
        pixels = pixels[:, :, ::-1]
    pixels = (pixels - np.float32(values["pixel_mean"])) / np.float32(values["pixel_std"])
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def build_trunk(weights: Weights) -> ResNet:
    """detectron2's ResNet in evaluation mode, with the weights of a file and the conventions it states.

    Raises:
        CheckpointError: the file does not fill it.
    """
    resnet = weights.resnet()
    norm = {"BN": "BN", "GN": "GN", "affine": "FrozenBN"}[weights.norm()]
    stride = bool((weights.conventions or {}).get("stride_in_1x1"))
    stages, channels = [], 64
    for index, count in enumerate(resnet.blocks):
        inner, first = resnet.width << index, 1 if index == 0 else 2
        options: dict = {"norm": norm, "stride_per_block": [first] + [1] * (count - 1)}
        if resnet.bottleneck:
            block, out = BottleneckBlock, 256 << index
            options.update(bottleneck_channels=inner, stride_in_1x1=stride, num_groups=resnet.groups)
        else:
            block, out = BasicBlock, 64 << index
        stages.append(ResNet.make_stage(block, count, in_channels=channels, out_channels=out, **options))
        channels = out
    names = [f"res{index + 2}" for index in range(len(stages))]
    model = ResNet(BasicStem(norm=norm), stages, out_features=names).eval()
    trunk = weights.trunk_tensors()
    state = {name: tensor for name, tensor in trunk.items() if not name.startswith(("linear.", "fpn_"))}
    kept = {name: tensor for name, tensor in model.state_dict().items() if norm == "FrozenBN"}
    missing, unexpected = model.load_state_dict({**kept, **state}, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    unexpected = [name for name in unexpected if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CheckpointError(
            f"The written file does not fill detectron2's {resnet}: missing {missing[:3]}, "
            f"without place {unexpected[:3]}."
        )
    return model


class _Stages(nn.Module):
    """Runs a model of another library and returns the outputs of some of its modules."""

    def __init__(self, model: nn.Module, modules: Mapping[str, str]):
        super().__init__()
        self.model, self.maps = model.eval(), {}
        for name, path in modules.items():
            model.get_submodule(path).register_forward_hook(partial(self._keep, name))

    def _keep(self, name: str, module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self.maps[name] = output

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        self.model(image)
        return self.maps


def _library_model(source: Weights, resnet: Architecture, name: str) -> tuple[_Stages, str]:
    """The source library's model with the source's weights, and the library's name and version."""
    stride = resnet.bottleneck and bool((source.conventions or {}).get("stride_in_1x1"))
    library = source.layout.library or "torchvision"
    if stride and library != "timm":
        library = "transformers"  # torchvision cannot place the stride there
    _require(library, library, "install densessl[convert], or leave --verify out")
    build, layout = _BUILDERS[library]
    try:
        model = build(source, resnet, name)
    except (RuntimeError, ValueError, AttributeError, TypeError, ImportError) as error:
        raise ConfigError(f"--model {name or resnet}: {library} cannot build it ({error}).") from error
    _load_strictly(model, source, layout, library)
    version = importlib.metadata.version(library)
    prefix = "encoder.stages.{}" if library == "transformers" else "layer{}"
    first = 0 if library == "transformers" else 1
    modules = {f"res{i + 2}": prefix.format(i + first) for i in range(len(resnet.blocks))}
    return _Stages(model, modules), f"{library} {version}"


def _load_strictly(model: nn.Module, source: Weights, layout: str, library: str) -> None:
    """Loads the source under its own names where they are the library's, else through the tables."""
    trunk = source.trunk_tensors()
    state = {rename_back(n, BY_NAME[layout].names): t for n, t in trunk.items() if not n.startswith("fpn_")}
    if source.layout.library == library:
        own = set(model.state_dict())
        raw = {theirs: _suffix(theirs, own) for theirs in source.trunk.values()}
        state = {name: source.tensors[theirs] for theirs, name in raw.items() if name is not None}
    if source.norm() == "affine":
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                state[f"{name}.running_mean"] = torch.zeros(module.num_features)
                state[f"{name}.running_var"] = torch.ones(module.num_features) - module.eps
    state = {name: t for name, t in state.items() if name is not None and not name.startswith(_HEADS)}
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [n for n in missing if not n.startswith(_HEADS) and not n.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CheckpointError(
            f"The source does not fill {library}'s {type(model).__name__}: missing {missing[:3]}, without "
            f"place {list(unexpected)[:3]}. Name the right one with --model."
        )


def _suffix(name: str, known: set[str]) -> str | None:
    """The longest end of a dotted name that the library knows: prefixes of wrappers go."""
    parts = name.split(".")
    ends = (".".join(parts[i:]) for i in range(len(parts)))
    return next((end for end in ends if end in known), None)


def _torchvision(source: Weights, resnet: Architecture, name: str) -> nn.Module:
    from torchvision import models
    from torchvision.models import resnet as module

    if name:
        return models.get_model(name, weights=None)
    block = module.Bottleneck if resnet.bottleneck else module.BasicBlock
    norm = partial(nn.GroupNorm, 32) if source.norm() == "GN" else nn.BatchNorm2d
    width = resnet.width // resnet.groups
    return module.ResNet(block, resnet.blocks, groups=resnet.groups, width_per_group=width, norm_layer=norm)


def _timm(source: Weights, resnet: Architecture, name: str) -> nn.Module:
    import timm

    return timm.create_model(name or f"resnet{resnet.depth}", pretrained=False)


def _transformers(source: Weights, resnet: Architecture, name: str) -> nn.Module:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        depths=list(resnet.blocks),
        hidden_sizes=[(256 if resnet.bottleneck else 64) << i for i in range(len(resnet.blocks))],
        layer_type="bottleneck" if resnet.bottleneck else "basic",
        downsample_in_bottleneck=bool((source.conventions or {}).get("stride_in_1x1")),
    )
    return ResNetModel(config)


# library -> (how to build its ResNet, the layout that has its names)
_BUILDERS = {
    "torchvision": (_torchvision, "torchvision"),
    "timm": (_timm, "timm"),
    "transformers": (_transformers, "hf-resnet"),
}


def _require(module: str, package: str, otherwise: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"--verify needs {package}, which is not installed: {otherwise}.")
