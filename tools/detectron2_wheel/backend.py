"""Build backend (PEP 517) that turns a pinned published wheel into a pure-Python `detectron2`.

detectron2 is not published under its own name. The pinned wheel carries upstream's tree of commit
a59f0563 (Apache-2.0), but it is tagged for one Python version because of compiled operators that
nothing in densessl uses, it asks for numpy<2, and it installs a stray top-level package `tools`.
Only the Python part, the model-zoo configs and the licence are kept, and the requirements are
stated anew. Two builds give the same bytes.

Environment variable:
    DENSESSL_DETECTRON2_WHEEL: the pinned wheel already on disk, for machines without a network.
"""

import base64
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PIN = "sal-detectron2==0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
VERSION = "0.6+ga59f0563"
# fvcore and iopath are missing from the pinned wheel's own metadata; setuptools<82 because
# detectron2/model_zoo imports pkg_resources, which setuptools 82 removed.
REQUIRES = (
    "black",
    "cloudpickle",
    "fvcore>=0.1.5.post20221221,<0.1.6",
    "hydra-core>=1.3,<1.4",
    "iopath>=0.1.9,<0.2",
    "matplotlib",
    "omegaconf>=2.3,<2.4",
    "packaging",
    "pillow>=10",
    "pycocotools>=2.0.7",
    "setuptools<82",
    "tabulate",
    "tensorboard",
    "termcolor>=1.1",
    "tqdm>4.29",
    "yacs>=0.1.8",
)


def _pinned_wheel(folder: pathlib.Path) -> bytes:
    """Returns the pinned wheel's bytes, downloaded into `folder` unless the variable names a file."""
    given = os.environ.get("DENSESSL_DETECTRON2_WHEEL")
    if not given:
        download = [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "--only-binary=:all:"]
        target = ["--python-version", "3.10", "--implementation", "cp", "-d", str(folder)]
        subprocess.run([*download, *target, PIN], check=True)
        given = str(next(folder.glob("*.whl")))
    data = pathlib.Path(given).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{given}: sha256 is {found}, expected {SHA256}; not installed")
    return data


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """PEP 517 hook: writes `detectron2-<VERSION>-py3-none-any.whl` and returns its name."""
    info = f"detectron2-{VERSION}.dist-info"
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        archive = pathlib.Path(folder, "pinned.whl")
        archive.write_bytes(_pinned_wheel(pathlib.Path(folder)))
        with zipfile.ZipFile(archive) as source:
            for name in sorted(source.namelist()):
                if name.startswith("detectron2/") and not name.endswith(("/", ".so")):
                    files[name] = source.read(name)
                elif name.endswith(".dist-info/LICENSE"):
                    files[f"{info}/licenses/LICENSE"] = source.read(name)
    metadata = [
        "Metadata-Version: 2.1",
        "Name: detectron2",
        f"Version: {VERSION}",
        "License: Apache-2.0",
        "Requires-Python: >=3.9",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
    ]
    files[f"{info}/METADATA"] = "\n".join([*metadata, ""]).encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: densessl\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    rows = [f"{name},sha256={_record_hash(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    wheel = f"detectron2-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, wheel), "w") as target:
        for name, data in files.items():
            # ZipInfo without a date is 1980-01-01: the same bytes on every machine
            target.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return wheel


def _record_hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def build_sdist(sdist_directory, config_settings=None):
    """PEP 517 hook: refused, since the source is upstream's and not ours to repackage."""
    raise SystemExit("detectron2_wheel: install from this folder; there is no source distribution")
