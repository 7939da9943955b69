"""What a benchmark ran on, for its tables."""

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

import densessl
from densessl.engine.launch import resolve_device


def describe(device: str) -> dict[str, str]:
    """Processor, memory, device and versions.

    Args:
        device: "auto", "cuda" or "cpu".
    """
    facts = {
        "cpu": f"{_cpu_model()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "device": "cpu",
        "python": platform.python_version(),
        "densessl": densessl.__version__,
        "torch": str(torch.__version__),
        "detectron2": metadata.version("detectron2"),
    }
    if resolve_device(device) == "cuda":
        facts["device"] = f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    return facts


def sentence(machine: dict[str, str]) -> str:
    """One line of the facts."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("densessl", "torch", "detectron2"))
    where = f"{machine['cpu']}, {machine['memory']}"
    device = "no GPU used" if machine["device"] == "cpu" else machine["device"]
    return f"{where}; {device}; Python {machine['python']}, {versions}"


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
