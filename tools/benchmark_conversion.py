#!/usr/bin/env python
"""Measures time and memory of converting a DenseCL training checkpoint of full size, made of random numbers.

    python tools/benchmark_conversion.py [--rounds 3]

The file has the names, shapes and momentum of the authors' R-50 checkpoint (0.55 GB). It is made in a
temporary folder from the recorded key list of the test suite. The limits are 10 s and twice the file's size
in memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEYS = ROOT / "tests/data/golden/checkpoints/densecl_full_train_r50.json"
TARGETS = (
    ("detectron2", ".pkl"),
    ("densecl", ".pth"),
    ("densecl-train", ".pth"),
    ("densecl-train", ".safetensors"),
)


def make_checkpoint(path: str) -> None:
    """Writes {meta, state_dict, optimizer} as the authors' trainer does."""
    import torch

    with open(KEYS) as file:
        shapes = json.load(file)
    state = {}
    for name, shape in shapes.items():
        if name.startswith("backbone."):  # stored a second time
            state[name] = state[name.replace("backbone.", "encoder_q.0.", 1)].clone()
        elif name.endswith(("num_batches_tracked", "_ptr")):
            state[name] = torch.zeros(shape, dtype=torch.int64)
        else:
            state[name] = torch.rand(shape) + 0.1
    trained = [n for n in shapes if n.startswith("encoder_q.") and n.endswith((".weight", ".bias"))]
    momentum = {i: {"momentum_buffer": torch.rand(shapes[name])} for i, name in enumerate(trained)}
    torch.save({"meta": {"epoch": 800}, "state_dict": state, "optimizer": {"state": momentum}}, path)


def measure(arguments: list[str]) -> tuple[float, float, int]:
    """(wall seconds, processor seconds, peak resident bytes) of one run of the converter."""
    command = [sys.executable, str(ROOT / "tools/convert_checkpoint.py"), *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> None:
    """Prints one row per target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each conversion (default: 3)")
    parser.add_argument("--make", metavar="FILE", help="only write such a checkpoint")
    args = parser.parse_args()
    if args.make:
        make_checkpoint(args.make)
        return
    rounds = args.rounds
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "epoch_800.pth")
        # in a process of its own: a child's peak memory counts from what its parent held
        subprocess.run([sys.executable, __file__, "--make", source], check=True)
        size = os.path.getsize(source)
        print(f"{size / 1e9:.2f} GB, load {os.getloadavg()[0]:.1f}; best of {rounds}")
        for layout, ending in TARGETS:
            target = os.path.join(folder, f"out{ending}")
            runs = [measure([source, target, "--to", layout]) for _ in range(rounds)]
            wall, processor, memory = (min(values) for values in zip(*runs, strict=True))
            print(
                f"{layout + ending:26} {wall:5.1f} s wall {processor:5.1f} s processor "
                f"{memory / 1e9:5.2f} GB = {memory / size:.2f} x the file"
            )


if __name__ == "__main__":
    main()
