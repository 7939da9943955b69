"""Builds `stereo`: one rectified photograph pair with true disparity, for scoring dense correspondences.

    python datasets/prepare_stereo.py [--output datasets/stereo]

Source: the `motorcycle` pair of the Middlebury 2014 stereo benchmark as shipped inside the scikit-image
wheel. Scharstein et al., High-resolution stereo datasets with subpixel-accurate ground truth, GCPR 2014.

Convention, checked against the pixels when building: the pixel (y, x) of left.png shows the same point as
(y, x - disparity[y, x]) of right.png. Disparity is in pixels, float32; NaN where it is unknown. (The
docstring of skimage.data.stereo_motorcycle states another indexing; the pixels decide.)
"""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from prepare_photos import require_file, skimage_data_folder, skimage_version

from densessl.data.datasets.sample_writer import build_atomically, builder_parser, main_guard
from densessl.errors import DataError


def photometric_error(left: np.ndarray, right: np.ndarray, disparity: np.ndarray) -> tuple[float, float]:
    """Mean absolute difference between left pixels and their matches in the right picture.

    Args:
        left, right: (H, W, 3) uint8.
        disparity: (H, W) float pixels, NaN where unknown.

    Returns:
        The error with the given disparity and, for comparison, with disparity zero, over the same pixels.
    """
    y, x = np.nonzero(np.isfinite(disparity))
    matched = np.rint(x - disparity[y, x]).astype(int)
    inside = (matched >= 0) & (matched < left.shape[1])
    y, x, matched = y[inside], x[inside], matched[inside]
    reference = left[y, x].astype(np.float64)
    return (
        float(np.abs(reference - right[y, matched]).mean()),
        float(np.abs(reference - right[y, x]).mean()),
    )


def build(folder: Path) -> str:
    """Fills `folder` and returns its one-line description.

    Raises:
        DataError: scikit-image lacks the files, or the disparity does not explain the pictures.
    """
    source = skimage_data_folder()
    for side in ("left", "right"):
        shutil.copyfile(require_file(source / f"motorcycle_{side}.png"), folder / f"{side}.png")
    with np.load(require_file(source / "motorcycle_disp.npz")) as archive:
        disparity = archive["arr_0"].astype(np.float32)
    disparity[~np.isfinite(disparity)] = np.nan
    left, right = (np.asarray(Image.open(folder / f"{s}.png").convert("RGB")) for s in ("left", "right"))
    matched, unmatched = photometric_error(left, right, disparity)
    if disparity.shape != left.shape[:2] or matched > 0.5 * unmatched:
        raise DataError(
            f"{source}: disparity {disparity.shape} does not match the pictures {left.shape}: error "
            f"{matched:.1f} with it, {unmatched:.1f} without; another scikit-image?"
        )
    np.savez_compressed(folder / "disparity.npz", disparity=disparity)
    valid = float(np.isfinite(disparity).mean())
    facts = {
        "left": "left.png",
        "right": "right.png",
        "disparity": "disparity.npz",
        "height": int(left.shape[0]),
        "width": int(left.shape[1]),
        "convention": "left (y, x) matches right (y, x - disparity[y, x]); NaN is unknown",
        "valid_fraction": round(valid, 4),
        "photometric_error": {"matched": round(matched, 2), "same_position": round(unmatched, 2)},
    }
    (folder / "stereo.json").write_text(json.dumps(facts, indent=1) + "\n")
    (folder / "LICENSE.txt").write_text(
        f"From the wheel of scikit-image {skimage_version()} (BSD-3-Clause), skimage/data/motorcycle_*.\n"
        "Middlebury 2014 stereo benchmark, D. Scharstein et al., GCPR 2014; CC0 according to scikit-image.\n"
    )
    return f"stereo: 1 pair {left.shape[1]}x{left.shape[0]}, {valid:.1%} of disparities known"


def main() -> str:
    """Parses the command line, builds, and returns what to print."""
    parser = builder_parser(__doc__, "stereo")
    return build_atomically(parser.parse_args().output, build)


if __name__ == "__main__":
    main_guard(main)
