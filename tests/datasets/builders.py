"""Imports the scripts of `datasets/` and makes small stand-ins for what they download."""

import importlib.util
import io
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image, ImageDraw

SCRIPTS = Path(__file__).parents[2] / "datasets"


def load_script(name: str) -> ModuleType:
    """Imports `datasets/<name>.py`; the folder is on the path as when the script is run."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def fake_sdist(path: Path, size: int = 400, cells: int = 10) -> Path:
    """A tar.gz laid out as yolo-tiling's sdist: a picture with one square of each class per row of cells."""
    coral = load_script("prepare_coral")
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8))
    step, lines = size / cells, []
    for index in range(cells * cells):
        x, y = index % cells * step, index // cells * step
        corners = [(x + 4, y + 4), (x + step - 4, y + 4), (x + step - 4, y + step - 4), (x + 4, y + step - 4)]
        values = " ".join(f"{v / size:.8f}" for corner in corners for v in corner)
        lines.append(f"{index % 4} {values}")
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    members = {
        coral.IMAGE_MEMBER: stream.getvalue(),
        coral.LABEL_MEMBER: "\n".join(lines).encode(),
        coral.LICENSE_MEMBER: b"MIT License",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"yolo_tiling-0.0.31/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def noisy_disc(seed: int, size: int = 100) -> Image.Image:
    """An RGBA cut-out that passes for a photograph: a disc of many colours."""
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 255, (size, size, 4), dtype=np.uint8), "RGBA")
    alpha = Image.new("L", (size, size))
    ImageDraw.Draw(alpha).ellipse((5, 10, size - 6, size - 11), fill=255)
    picture.putalpha(alpha)
    return picture


def build_deb(folder: Path, package: str, files: dict[str, bytes]) -> Path:
    """A real .deb with `files` (path inside the package -> bytes)."""
    root = folder / package
    (root / "DEBIAN").mkdir(parents=True)
    control = f"Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t>\nDescription: test\n"
    (root / "DEBIAN/control").write_text(control)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    deb = folder / f"{package}_1_all.deb"
    command = ["dpkg-deb", "--root-owner-group", "-b", str(root), str(deb)]
    subprocess.run(command, check=True, capture_output=True)
    return deb


def fake_stamps_deb(folder: Path, classes: tuple[str, ...] = ("bird", "fish"), per_class: int = 8) -> Path:
    """A stand-in for tuxpaint-stamps-default, with drawings that must not be taken."""
    cutpaste = load_script("prepare_cutpaste")
    files = {}
    for k, name in enumerate(classes):
        prefix = f"{cutpaste.STAMPS_FOLDER}/{cutpaste.CLASSES[name][0]}"
        for i in range(per_class):
            stream = io.BytesIO()
            noisy_disc(100 * k + i).save(stream, "PNG")
            files[f"{prefix}animal_{i}.png"] = stream.getvalue()
        files[f"{prefix}cartoon/drawn.png"] = stream.getvalue()
        flat = Image.new("RGBA", (100, 100), (255, 0, 0, 255))
        flat.putpixel((0, 0), (0, 0, 0, 0))
        stream = io.BytesIO()
        flat.save(stream, "PNG")
        files[f"{prefix}flat.png"] = stream.getvalue()
    files["usr/share/doc/tuxpaint-stamps-default/copyright"] = b"GPL-2"
    return build_deb(folder, cutpaste.STAMPS_PACKAGE, files)


def fake_photos_deb(folder: Path, count: int = 8) -> Path:
    """A stand-in for gcompris-qt-data: a resource file with WebP pictures of one colour each."""
    cutpaste = load_script("prepare_cutpaste")
    blob = b"qres" + struct.pack(">I", 3) + b"RIFF\x04\x00\x00\x00WAVE"  # a RIFF file that is no picture
    for index in range(count):
        stream = io.BytesIO()
        Image.new("RGB", (200, 150), (30 * index, 255 - 30 * index, 128)).save(stream, "WEBP", lossless=True)
        blob += b"name" + stream.getvalue()
    return build_deb(folder, cutpaste.PHOTOS_PACKAGE, {cutpaste.PHOTOS_FILE: blob})
