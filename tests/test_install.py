"""The package, its environment check, and what importing it costs."""

import subprocess
import sys

import pytest

from densessl import requirements
from densessl.errors import ConfigError


def test_import_is_light():
    heavy = ["torch", "cv2", "faiss", "timm", "matplotlib", "detectron2.engine", "pycocotools"]
    code = f"import sys, densessl; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_requirement_names_module_and_remedy(monkeypatch):
    monkeypatch.setattr(requirements, "_FEATURES", (("detectron2.no_such_module", "a newer detectron2"),))
    with pytest.raises(ConfigError, match=r"no_such_module.*was not found.*pip install -r requirements.txt"):
        requirements.check_environment()
