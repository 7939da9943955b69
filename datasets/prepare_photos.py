"""Builds `photos`: the photographs inside the scikit-image wheel, for unlabelled pretraining.

    python datasets/prepare_photos.py [--output datasets/photos]

Files are copied as they are, without loading scikit-image and without its download tool (pooch). The
stereo pair is left out: `prepare_stereo.py` keeps it for scoring correspondences. Pretrain on this folder
together with the training tiles of `coral`: `datasets/photos/images`, `datasets/coral/images/train`.
"""

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

from densessl.data.datasets.sample_writer import build_atomically, builder_parser, main_guard
from densessl.errors import DataError

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)


def skimage_data_folder() -> Path:
    """The `data` folder of the installed scikit-image, found without importing it.

    Raises:
        DataError: scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None:
        raise DataError(
            "scikit-image is not installed, and its photographs are used: `pip install scikit-image`."
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def skimage_version() -> str:
    """The installed version, for licence notes."""
    return importlib.metadata.version("scikit-image")


def require_file(path: Path) -> Path:
    """Returns `path` if it is a file; a DataError names the wheel's version otherwise."""
    if not path.is_file():
        raise DataError(f"{path}: scikit-image {skimage_version()} does not carry it; install 0.25 or 0.26.")
    return path


def build(folder: Path) -> str:
    """Fills `folder` and returns its one-line description."""
    source = skimage_data_folder()
    (folder / "images").mkdir()
    for name in PHOTOGRAPHS:
        shutil.copyfile(require_file(source / name), folder / "images" / name)
    (folder / "LICENSE.txt").write_text(
        f"Copied from the wheel of scikit-image {skimage_version()} (BSD-3-Clause), skimage/data. Public\n"
        "domain, CC0 or free to use, file by file: see the docstrings of skimage.data and\n"
        "https://scikit-image.org/docs/stable/license.html\n"
    )
    return f"photos: {len(PHOTOGRAPHS)} photographs of scikit-image {skimage_version()}"


def main() -> str:
    """Parses the command line, builds, and returns what to print."""
    parser = builder_parser(__doc__, "photos")
    return build_atomically(parser.parse_args().output, build)


if __name__ == "__main__":
    main_guard(main)
