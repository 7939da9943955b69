"""Checks that what densessl stands on is installed, by feature rather than by version string."""

import importlib.machinery
import importlib.util

from densessl.errors import ConfigError

_INSTALL = (
    "Install from the root of a densessl checkout: "
    "`pip install -r requirements.txt && pip install --no-deps -e .`, or run `bash tools/quickstart.sh`."
)
# detectron2's version string cannot be trusted (builds of one commit say 0.6 and 0.7.2), so a module
# that only new enough trees have is looked for.
_FEATURES = (
    ("torch", "PyTorch"),
    ("torchvision", "torchvision"),
    ("detectron2", "detectron2"),
    ("detectron2.config.lazy", "a detectron2 with LazyConfig"),
    ("detectron2.modeling.backbone.vit", "a detectron2 of 2022-06 or newer (with the plain ViT backbone)"),
    ("fvcore", "fvcore"),
    ("iopath", "iopath"),
)


def check_environment() -> None:
    """Raises ConfigError naming the first missing requirement and the command that installs it.

    Modules are located, not imported, so that `--help` stays fast.
    """
    for module, description in _FEATURES:
        if not _is_available(module):
            raise ConfigError(f"densessl needs {description}: module {module!r} was not found. {_INSTALL}")


def _is_available(module: str) -> bool:
    """Whether `module` exists on disk; parents are resolved by path, without running them."""
    package, *rest = module.split(".")
    spec = importlib.util.find_spec(package)
    for name in rest:
        if spec is None or not spec.submodule_search_locations:
            return False
        spec = importlib.machinery.PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec is not None
