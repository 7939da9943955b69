#!/usr/bin/env python
"""VOC07 image classification with linear SVMs on frozen features, with all images and with few.

    tools/benchmark_svm.py output/densecl_R_50_coco_800ep/model_final.pth --output output/svm --jobs 16

CHECKPOINT is anything that train.init_checkpoint takes, or "random" for an untrained trunk. Stopped, the same
command goes on. Writes results.json and results.md below --output. One stage of ResNet-50 takes 0.4 GB.
Published (mmselfsup 1.0.0, ImageNet, 200 epochs, res5): DenseCL 82.5, low shot 42.68 50.64 61.74 68.17 72.99
76.07 79.19 80.55; MoCo v2 84.04; its scripts do what --low-shot-cost test --difficult negative does here.
Protocol and differences: densessl/evaluation/linear_svm.py, low_shot_svm.py.
"""

import argparse
import importlib.util
from pathlib import Path

from densessl.engine.launch import quiet_known_warnings, resolve_device, run_main
from densessl.errors import ConfigError

# the names of densessl.layers.stage_pooling, linear_svm, low_shot_svm: importing them takes seconds
STAGES = ("conv1", "res2", "res3", "res4", "res5")
SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of the command line; torch is not imported for them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help='weight file, run directory, URL, or "random"')
    add("--output", required=True, type=Path, metavar="DIR", help="features, partial results and the table")
    add("--voc", type=Path, metavar="DIR", help="VOC2007 folder (default: below DETECTRON2_DATASETS)")
    add("--depth", type=int, default=50, help="of the ResNet (default: 50)")
    add("--stages", nargs="+", default=["res5"], choices=STAGES, help="features (default: res5)")
    add(
        "--shots",
        nargs="*",
        type=int,
        default=list(SHOTS),
        metavar="K",
        help="low shot; nothing: leave it out",
    )
    add("--samples", type=int, default=5, help="low-shot samples per k (default: 5)")
    add(
        "--costs", default="openselfsup", choices=("openselfsup", "vissl"), help="grid (default: openselfsup)"
    )
    add(
        "--difficult",
        default="drop",
        choices=("drop", "negative"),
        help="training images with difficult objects of a class only; the originals: negative",
    )
    add(
        "--low-shot-cost",
        default="cross_validation",
        choices=("cross_validation", "test"),
        help="the originals choose the cost on the test images",
    )
    add("--short-edge", type=int, default=256, help="first resize (default: 256)")
    add("--size", type=int, default=224, help="side of the square image (default: 224)")
    add(
        "--pooling",
        default="specified",
        choices=("specified", "adaptive"),
        help="published windows, for 224 pixels only, or adaptive ones (default: specified)",
    )
    add("--pixel-mean", nargs=3, type=float, default=[123.675, 116.28, 103.53], help="RGB, 0-255")
    add("--pixel-std", nargs=3, type=float, default=[58.395, 57.12, 57.375], help="RGB, 0-255")
    add("--seed", type=int, default=0, help="of samples, SVMs and random weights (default: 0)")
    add("--device", default="auto", help="auto, cuda or cpu")
    add("--batch-size", type=int, default=32)
    add("--num-workers", type=int, default=2, help="processes that load images")
    add("--jobs", type=int, default=1, help="processes that train SVMs; -1 for all cores")
    return parser.parse_args(argv)


def build_model(args: argparse.Namespace):
    """The frozen trunk and a name for what is in it."""
    import torch

    from densessl.checkpoint.transfer import load_initial_weights, resolve_weights_path
    from densessl.data.datasets.sample_writer import sha256_of
    from densessl.modeling.backbone import build_resnet
    from densessl.modeling.meta_arch import PooledFeatures

    torch.manual_seed(args.seed)
    model = PooledFeatures(
        backbone=build_resnet(args.depth), pixel_mean=args.pixel_mean, pixel_std=args.pixel_std
    )
    weights = f"random, seed {args.seed}"
    if args.checkpoint != "random":
        weights = sha256_of(Path(resolve_weights_path(args.checkpoint)))
        load_initial_weights(model, args.checkpoint)
    return model.to(resolve_device(args.device)).eval(), weights


def main(argv: list[str] | None = None) -> None:
    """Extracts features, trains the SVMs and writes the tables. Raises ConfigError or DataError."""
    args = parse_args(argv)
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError("The SVMs are scikit-learn's, which is not installed: pip install 'densessl[svm]'.")
    from detectron2.utils.logger import setup_logger

    from densessl.data.dataset_mappers import SquareMapper
    from densessl.data.datasets.builtin import dataset_path
    from densessl.data.datasets.voc_classification import load_voc_labels
    from densessl.evaluation.stage_features import StageFeatures, require_facts
    from densessl.evaluation.svm_benchmark import SVMOptions, run_benchmark

    for name, least in (("samples", 1), ("batch_size", 1), ("num_workers", 0), ("seed", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(args, name)} is below {least}.")
    if any(k < 1 for k in args.shots):
        raise ConfigError(f"--shots {args.shots}: each at least 1.")
    if args.pooling == "specified" and args.size != 224:
        raise ConfigError(f"--size {args.size}: the published windows are for 224; add --pooling adaptive.")
    setup_logger(name="densessl")
    root = args.voc or Path(dataset_path("VOC2007"))
    train, test = load_voc_labels(root, "trainval"), load_voc_labels(root, "test")
    mapper = SquareMapper(args.short_edge, args.size)
    model, weights = build_model(args)
    kept = ("depth", "short_edge", "size", "pooling", "pixel_mean", "pixel_std")
    facts = {key: getattr(args, key) for key in kept} | {"weights": weights}
    require_facts(args.output, facts)
    features = StageFeatures(
        model, args.output / "features", args.stages, mapper, args.pooling, args.batch_size, args.num_workers
    )
    options = SVMOptions(
        args.costs, args.difficult, args.low_shot_cost, tuple(args.shots), args.samples, args.seed
    )
    run_benchmark(features, train, test, args.output, options, args.jobs)
    print((args.output / "results.md").read_text())


if __name__ == "__main__":
    quiet_known_warnings()
    run_main(main)
