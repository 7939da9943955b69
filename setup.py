"""Installs densessl. detectron2 is not in `install_requires`: nobody owns that name on the package
index, so a stranger's upload would be installed. `requirements.txt` builds it from
tools/detectron2_wheel, and `import densessl` says so when it is missing."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "densessl/__init__.py").read_text()).group(1)

INSTALL_REQUIRES = [
    "torch>=2.4,<2.16",  # 2.4: torch.amp.GradScaler, weights_only loads; 2.15 is the newest checked
    "torchvision>=0.19",  # NMS and ROIAlign of detectron2, v2 crops; fixes the exact torch it needs
    "numpy>=1.26,<3",
    "scipy>=1.11",  # Hungarian assignment
    "pillow>=10,<14",  # fallback decoder; detectron2 draws and transforms with it
    "opencv-python-headless>=4.9,<6",  # colour and blur of the views; headless needs no X libraries
    "simplejpeg>=1.8,<2",  # JPEG decoding, 1.2x the others (docs/benchmarks.md)
    "pycocotools>=2.0.8",  # masks; 2.0.8 is the first for numpy 2
    "faster-coco-eval>=1.6,<2",  # COCO and LVIS AP, the same digits as pycocotools and 3-6x faster
    "shapely>=2",  # fvcore's CropTransform imports it for polygon masks without declaring it
    "faiss-cpu>=1.8",  # k-means and nearest neighbours
    "timm>=0.9.16,<2",  # feature backbones; detectron2's ViT imports timm.models.layers
    "safetensors>=0.4",  # exported weights
    "fvcore>=0.1.5.post20221221,<0.1.6",  # parameter schedulers, checkpointer, transforms
    "iopath>=0.1.9,<0.2",  # file paths as in detectron2
    "omegaconf>=2.3,<2.4",  # bound of detectron2's LazyConfig
    "hydra-core>=1.3,<1.4",  # parses command-line overrides
    "tabulate>=0.8",  # AP tables in the log, as detectron2 prints them
    "tensorboard>=2.12",  # event files
    "matplotlib>=3.7",  # curves of the report, detectron2's visualizer
    "rich>=13",  # progress line on a terminal; plain lines elsewhere
    "setuptools<82",  # detectron2.model_zoo imports pkg_resources, removed in 82
]
EXTRAS_REQUIRE = {
    "lmdb": ["lmdb>=1.4"],  # reads data sets packed by tools/folder2lmdb.py
    "slurm": ["submitit>=1.5"],  # tools/submit_slurm.py
    "wandb": ["wandb>=0.16"],  # optional logger
    "svm": ["scikit-learn>=1.4"],  # linear SVMs of the VOC07 classification benchmark
    "cityscapes": ["cityscapesscripts>=2.2"],  # AP of Cityscapes; detectron2's evaluator calls it
    "convert": ["timm>=0.9.16,<2", "transformers>=4.40"],  # convert_checkpoint.py --verify against them
    "sample": ["scikit-image>=0.22"],  # photographs of the quickstart
    "gpu": ["faiss-gpu"],  # replaces faiss-cpu: uninstall that first
    "proposals": ["opencv-contrib-python-headless"],  # replaces the plain headless wheel
    # site of docs/: theme, and API pages from docstrings without importing the code
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings-python>=2,<3"],
    # lightly: an oracle for losses; xdist: two test processes on two cores
    "test": ["pytest>=9", "pytest-timeout>=2.3", "pytest-xdist>=3.6", "lightly>=1.6", "ruff"],
}


def config_packages() -> dict[str, str]:
    """Maps `densessl.configs[.x]` to `configs[/x]` and `densessl.projects[.x]` to `projects[/x]`, so that an
    installed wheel carries every config, the files in the same places relative to each other."""
    packages = {}
    for folder in ("configs", "projects"):
        found = ["", *(f".{name}" for name in find_namespace_packages(str(ROOT / folder)))]
        packages |= {f"densessl.{folder}{name}": folder + name.replace(".", "/") for name in found}
    return packages


setup(
    name="densessl",
    version=VERSION,
    description="Dense self-supervised pretraining and downstream fine-tuning on Detectron2",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["densessl", "densessl.*"]), *config_packages()],
    package_dir={"densessl": "densessl", **config_packages()},
    package_data={"densessl.data.datasets": ["meta/*.json"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
