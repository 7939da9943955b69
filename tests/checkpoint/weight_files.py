"""Weight files of every layout, made for tests: golden key lists, and small files with real values."""

import json
import os
import pickle

import torch
from safetensors.torch import save_file

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(__file__)), "data", "golden", "checkpoints")


def golden(name):
    with open(os.path.join(GOLDEN, f"{name}.json")) as file:
        return json.load(file)


def stand_ins(shapes):
    """One tensor object per name: the right shape, no memory, told apart by identity."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def small_trunk(seed=0):
    """Torchvision's names and random values of a bottleneck ResNet with one block per stage and width 4."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def draw(name, *shape):
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * 0.05

    def norm(name, channels):
        for leaf in ("weight", "bias", "running_mean"):
            state[f"{name}.{leaf}"] = torch.randn(channels, generator=generator) * 0.1 + 0.5
        state[f"{name}.running_var"] = torch.rand(channels, generator=generator) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(int(state[f"{name}.weight"].numel()))

    draw("conv1", 64, 3, 7, 7)
    norm("bn1", 64)
    channels = 64
    for stage in range(4):
        inner, out, block = 4 << stage, 256 << stage, f"layer{stage + 1}.0"
        sizes = ((inner, channels, 1, 1), (inner, inner, 3, 3), (out, inner, 1, 1))
        for index, shape in enumerate(sizes, start=1):
            draw(f"{block}.conv{index}", *shape)
            norm(f"{block}.bn{index}", shape[0])
        draw(f"{block}.downsample.0", out, channels, 1, 1)
        norm(f"{block}.downsample.1", out)
        channels = out
    return state


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


def to_transformers(name):
    """Names of transformers' ResNetModel, written by hand from its class."""
    kind = {"conv": "convolution", "bn": "normalization"}
    parts = name.split(".")
    if parts[0] in ("conv1", "bn1"):
        return f"embedder.embedder.{kind[parts[0][:-1]]}.{parts[1]}"
    start = f"encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
    if parts[2] == "downsample":
        return f"{start}.shortcut.{'convolution' if parts[3] == '0' else 'normalization'}.{parts[4]}"
    return f"{start}.layer.{int(parts[2][-1]) - 1}.{kind[parts[2][:-1]]}.{parts[3]}"


def to_detectron2(name):
    """Detectron2's names, written by hand from its class."""
    parts = name.split(".")
    if parts[0] in ("conv1", "bn1"):
        return f"stem.conv1{'.norm' if parts[0] == 'bn1' else ''}.{parts[1]}"
    start = f"res{int(parts[0][5:]) + 1}.{parts[1]}"
    if parts[2] == "downsample":
        return f"{start}.shortcut{'.norm' if parts[3] == '1' else ''}.{parts[4]}"
    norm = ".norm" if parts[2].startswith("bn") else ""
    return f"{start}.conv{parts[2][-1]}{norm}.{parts[3]}"


def to_caffe2(name, leaves, norm="bn", stem="res_conv1"):
    """Detectron's names, written by hand from detectron2's c2_model_loading.py; None for batch counters."""
    layer, leaf = to_detectron2(name).rsplit(".", 1)
    suffix = leaves.get(leaf) if layer.endswith(".norm") else "w"
    if suffix is None:
        return None
    layer = layer.removesuffix(".norm")
    kind = f"_{norm}" if suffix != "w" else ""
    if layer == "stem.conv1":
        return f"{stem if kind else 'conv1'}{kind}_{suffix}"
    stage, block, part = layer.split(".")
    branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[part]
    return f"{stage}_{block}_branch{branch}{kind}_{suffix}"


AFFINE = {"weight": "s", "bias": "b"}
FULL_BN = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
DECODER = {
    f"decoder.layer{n}.{leaf}": torch.full((3, 256 << (4 - n), 1, 1) if leaf == "weight" else (3,), float(n))
    for n in (1, 2, 3, 4)
    for leaf in ("weight", "bias")
}


def _openselfsup(trunk, *extra):
    return {
        **{name: torch.zeros(2, 3) for name in ("queue", "queue_ptr", *extra)},
        **prefixed("encoder_q.0.", trunk),
        "encoder_q.1.mlp.0.weight": torch.zeros(3),
        **prefixed("encoder_k.0.", small_trunk(9)),
        "encoder_k.1.mlp.0.weight": torch.zeros(3),
        **prefixed("backbone.", trunk),
    }


def _caffe2(trunk, leaves, norm="bn", stem="res_conv1"):
    names = {to_caffe2(name, leaves, norm, stem): name for name in trunk}
    arrays = {name: trunk[theirs].numpy() for name, theirs in names.items() if name is not None}
    fc = {"fc1000_w": torch.zeros(10, 2048).numpy(), "fc1000_b": torch.zeros(10).numpy()}
    return {**arrays, **fc, "conv1_b": torch.zeros(64).numpy()}


def contents(trunk):
    """{layout: what a file of it holds at top level}, heads and training state included."""
    fc = {"fc.weight": torch.zeros(5, 2048), "fc.bias": torch.zeros(5)}
    run = {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
    classifier = {"module.weight": torch.zeros(27, 3, 1, 1)}
    decoder = prefixed("module.", DECODER)
    detectron2 = {to_detectron2(name): tensor for name, tensor in trunk.items()}
    hf = {to_transformers(name): tensor for name, tensor in trunk.items()}
    heads = {"proposal_generator.rpn_head.conv.weight": torch.zeros(2)}
    c4 = {
        ("roi_heads." if name.startswith("res5.") else "backbone.") + name: tensor
        for name, tensor in detectron2.items()
    }
    moco = {"module.queue": torch.zeros(2, 3), **prefixed("module.encoder_q.", {**trunk, **fc})}
    moco.update(prefixed("module.encoder_k.", {**small_trunk(9), **fc}))
    mm = {"queue": torch.zeros(2), **prefixed("backbone.", trunk), "neck.mlp.0.weight": torch.zeros(2)}
    mm.update({"encoder_k.steps": torch.tensor(4), **prefixed("encoder_k.module.0.", small_trunk(9))})
    siam = {"module.predictor.0.weight": torch.zeros(2), **prefixed("module.encoder.", {**trunk, **fc})}
    picie = {**run, "state_dict": {**prefixed("module.backbone.", trunk), **decoder}}
    backbone = prefixed("backbone.", trunk)
    return {
        "caffe2": _caffe2(trunk, AFFINE),
        "caffe2-bn": _caffe2(trunk, FULL_BN),
        "caffe2-gn": _caffe2(trunk, AFFINE, "gn", "conv1"),
        "vissl": {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": prefixed("_feature_blocks.", trunk), "heads": {}}},
                **run,
            }
        },
        "densecl-train": {**run, "meta": {"epoch": 3}, "state_dict": _openselfsup(trunk, "queue2")},
        "openselfsup-train": {**run, "state_dict": _openselfsup(trunk)},
        "openselfsup-query": {**run, "state_dict": _openselfsup(trunk)},
        "mmselfsup-train": {**run, "meta": {"epoch": 3}, "state_dict": mm},
        "densesiam": {
            **run,
            "state_dict": {**backbone, **DECODER, "kernel_projector.0.weight": torch.zeros(2)},
        },
        "densesiam-picie": {
            **run,
            "state_dict": {**backbone, **DECODER, "classifier1.weight": torch.zeros(2)},
        },
        "picie": {**picie, "classifier1_state_dict": classifier, "classifier2_state_dict": classifier},
        "mdc": {**picie, "classifier1_state_dict": classifier},
        "openmmlab": {
            "meta": {"CLASSES": ("cat",)},
            "state_dict": {**backbone, "neck.lateral_convs.0.conv.weight": torch.zeros(2)},
        },
        "moco": {**run, "arch": "resnet50", "state_dict": moco},
        "simsiam": {**run, "arch": "resnet50", "state_dict": siam},
        "swav": prefixed("module.", {**trunk, "prototypes.weight": torch.zeros(2)}),
        "hf-resnet-classifier": {**prefixed("resnet.", hf), "classifier.1.weight": torch.zeros(5, 2048)},
        "hf-resnet": hf,
        "densecl": {"state_dict": trunk, "author": "DenseCL"},
        "mmselfsup": {"state_dict": trunk, "author": "MMSelfSup"},
        "torchvision": {**trunk, **fc},
        "timm": {**trunk, **fc},
        "detectron2-fpn": {
            "model": {
                **prefixed("backbone.bottom_up.", detectron2),
                "backbone.fpn_output2.weight": torch.zeros(2),
                **heads,
            },
            "__author__": "MOCO",
        },
        "detectron2-c4": {"model": {**c4, **heads}, "__author__": "MOCO"},
        "densessl": {
            "model": {
                **prefixed("backbone.", detectron2),
                **prefixed("momentum_backbone.", detectron2),
                "queue": torch.zeros(2),
            },
            "iteration": 5,
            "meta": {
                "format": "densessl",
                "architecture": "DenseCL",
                "input_format": "RGB",
                "pixel_mean": [123.675, 116.28, 103.53],
                "pixel_std": [58.395, 57.12, 57.375],
                "stride_in_1x1": False,
            },
        },
        "detectron2": {"model": detectron2, "__author__": "OpenSelfSup", "matching_heuristics": True},
    }


def write(path, content):
    """Writes a file as the layout's owner would, by the ending of its name."""
    path = str(path)
    if path.endswith(".safetensors"):
        save_file(content.get("state_dict", content), path, metadata={"format": "pt"})
    elif path.endswith(".pkl"):
        with open(path, "wb") as file:
            pickle.dump(_arrays(content), file)
    else:
        torch.save(content, path)
    return path


def _arrays(content):
    if isinstance(content, dict):
        return {name: _arrays(value) for name, value in content.items()}
    return content.numpy() if isinstance(content, torch.Tensor) else content
