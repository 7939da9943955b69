"""The package, its environment check, and what importing it costs."""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from densessl import requirements
from densessl.errors import ConfigError

ROOT = Path(__file__).parents[1]


def test_import_is_light():
    heavy = ["torch", "cv2", "faiss", "timm", "matplotlib", "detectron2.engine", "pycocotools"]
    code = f"import sys, densessl; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_requirement_names_module_and_remedy(monkeypatch):
    monkeypatch.setattr(requirements, "_FEATURES", (("detectron2.no_such_module", "a newer detectron2"),))
    with pytest.raises(ConfigError, match=r"no_such_module.*was not found.*pip install -r requirements.txt"):
        requirements.check_environment()


@pytest.fixture
def wheel_backend(tmp_path, monkeypatch):
    """The build backend, with a small wheel of the pinned one's shape in place of the download."""
    path = ROOT / "tools/detectron2_wheel/backend.py"
    spec = importlib.util.spec_from_file_location("detectron2_backend", path)
    backend = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(backend)
    source = tmp_path / "pinned.whl"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("detectron2/__init__.py", "VALUE = 1\n")
        archive.writestr("detectron2/_C.cpython-310-x86_64-linux-gnu.so", b"compiled")
        archive.writestr("tools/__init__.py", "")
        archive.writestr("sal_detectron2-0.7.2.dist-info/LICENSE", "Apache License\n")
    monkeypatch.setenv("DENSESSL_DETECTRON2_WHEEL", str(source))
    return backend, source


def test_detectron2_wheel_keeps_python_and_licence_only(wheel_backend, tmp_path, monkeypatch):
    backend, source = wheel_backend
    monkeypatch.setattr(backend, "SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    builds = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        wheel = backend.build_wheel(str(tmp_path / name))
        builds.append((tmp_path / name / wheel).read_bytes())
    assert builds[0] == builds[1]
    with zipfile.ZipFile(tmp_path / "first" / wheel) as archive:
        info = f"detectron2-{backend.VERSION}.dist-info"
        members = {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE"}
        assert set(archive.namelist()) == {"detectron2/__init__.py", *(f"{info}/{name}" for name in members)}
        assert "Requires-Dist: fvcore" in archive.read(f"{info}/METADATA").decode()


def test_detectron2_wheel_refuses_another_file(wheel_backend, tmp_path):
    backend, source = wheel_backend
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    with pytest.raises(SystemExit, match=f"sha256 is {found}, expected {backend.SHA256}"):
        backend.build_wheel(str(tmp_path))


def test_a_wheel_carries_every_config(tmp_path):
    """What setup.py puts into a wheel loads every config, away from the checkout."""
    build = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path / "base")]
    subprocess.run([*build, "--build-lib", str(tmp_path / "lib")], cwd=ROOT, check=True, capture_output=True)
    files = [
        path.relative_to(ROOT) for folder in ("configs", "projects") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 30
    code = """if 1:
        import sys, densessl
        from densessl.config import load_config
        from detectron2.config import LazyConfig
        root = sys.argv[1] + "/densessl/"
        assert densessl.__file__.startswith(root), densessl.__file__
        for name in sys.argv[2:]:
            parts = ("common", "benchmarks/mini_rcnn", "benchmarks/transfer")  # without the five nouns
            (LazyConfig.load if any(part in name for part in parts) else load_config)(root + name)
    """
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "lib"), *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_requirements_lie_within_the_ranges_of_setup():
    """The tested set satisfies what setup.py asks for, name by name."""
    setup = (ROOT / "setup.py").read_text()
    ranges = {
        Requirement(text).name: Requirement(text) for text in re.findall(r'^    "([^"]+)",', setup, re.M)
    }
    tested = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith(("#", "./")):
            tested[Requirement(line).name] = Requirement(line)
    assert set(ranges) <= set(tested)
    for name, requirement in ranges.items():
        assert requirement.specifier.contains(importlib.metadata.version(name)), name
        assert tested[name].specifier.contains(importlib.metadata.version(name)), name
