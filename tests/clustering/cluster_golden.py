"""Reads the recorded arrays of PiCIE, MDC and DenseSiam."""

from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "data/golden/densesiam_picie"
# confusion matrices of PiCIE's repository: date and data set
RELEASED = ("2021_06_train", "2021_06_val", "2021_11_train", "2021_11_val", "2021_12_val")


def golden(name: str) -> dict:
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def tensors(arrays: dict, *names: str) -> list[torch.Tensor]:
    return [torch.from_numpy(arrays[name]) for name in names]
