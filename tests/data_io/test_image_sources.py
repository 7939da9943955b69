"""Folders, lists, data set names and several roots: what is found, in which order, and what is refused."""

import os
import subprocess
import sys

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from densessl.data.records import PackedNames
from densessl.data.sources import (
    ConcatSource,
    FolderSource,
    ListSource,
    RecordsSource,
    build_image_source,
)
from densessl.errors import ConfigError, DataError


def write_image(path, value: int = 0) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(stream, "PNG")


@pytest.fixture
def tree(tmp_path):
    """Image files in byte order b'B.png' < b'a/..' < ..., beside files that are none."""
    root = tmp_path / "photos"
    for name in (
        "a/2.png",
        "a/10.png",
        "B.png",
        "a/deep/er/x.JPEG",
        "ä.png",
        "a b/c d.png",
        ".hidden.png",
        ".git/h.png",
    ):
        write_image(root / name)
    (root / "readme.txt").write_text("no image")
    (root / "a/._2.png").write_text("attributes")
    return root


def run_python(program: str, *args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-c", program, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)


def ids(source) -> list[str]:
    return [source[index]["image_id"] for index in range(len(source))]


def test_folder_order_is_that_of_the_bytes(tree) -> None:
    source = build_image_source(str(tree))
    expected = ["B.png", "a b/c d.png", "a/10.png", "a/2.png", "a/deep/er/x.JPEG", "ä.png"]
    assert ids(source) == expected == sorted(expected, key=os.fsencode)
    assert all(os.path.exists(source[index]["file_name"]) for index in range(len(source)))
    with pytest.raises(IndexError):
        source[len(source)]


def test_odd_file_names(tmp_path) -> None:
    names = [b"new\nline.png", b"caf\xe9.png", b"quote'\".png", b"y" * 251 + b".png"]
    for name in names:
        write_image(os.fsencode(tmp_path) + b"/" + name)
    source = FolderSource(str(tmp_path))
    assert [os.fsencode(source[index]["image_id"]) for index in range(4)] == sorted(names)
    assert all(os.path.exists(source[index]["file_name"]) for index in range(4))


def test_symlink_loops_and_links_to_other_folders(tree, tmp_path) -> None:
    write_image(tmp_path / "elsewhere/e.png")
    (tree / "a/loop").symlink_to(tree, target_is_directory=True)
    (tree / "a/self").symlink_to(".", target_is_directory=True)
    (tree / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tree / "again").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tree / "dangling.png").symlink_to(tree / "gone.png")
    found = ids(FolderSource(str(tree)))
    assert "again/e.png" in found
    assert "linked/e.png" not in found  # the same folder once, by the first name
    assert "dangling.png" in found  # for the bad-image policy to report
    assert len(found) == 8


def test_missing_empty_and_forbidden_folders(tmp_path) -> None:
    with pytest.raises(DataError, match=r"/nowhere does not exist.*check the path"):
        build_image_source(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="holds 0 images.*extensions"):
        build_image_source(str(tmp_path))
    with pytest.raises(
        DataError,
        match="coco_2017_trian is neither a path nor a registered data set. Nearest: coco_2017_train",
    ):
        build_image_source("coco_2017_trian")
    for wrong in ("", 3, None):
        with pytest.raises(ConfigError, match="must be a path"):
            build_image_source(wrong)
    with pytest.raises(ConfigError, match="empty list"):
        build_image_source([])


@pytest.mark.parametrize("forbidden", [".", "inner"])
def test_permission_denied(tmp_path, forbidden: str) -> None:
    """In a process without root's rights, since root may read everything."""
    root = tmp_path / "photos"
    write_image(root / "inner/a.png")
    target = root / forbidden
    tmp_path.chmod(0o755)
    target.chmod(0)
    program = (
        "import os, sys\n"
        "from densessl.data.sources import FolderSource\n"
        "from densessl.errors import DataError\n"
        "os.chdir(sys.argv[1])\n"  # before the rights go: the folders above belong to root alone
        "os.geteuid() or os.seteuid(65534)\n"
        "try:\n    FolderSource('photos')\n"
        "except DataError as error:\n    print(error)\n"
    )
    try:
        done = run_python(program, str(tmp_path))
    finally:
        target.chmod(0o755)
    assert "cannot read the folder photos" in done.stdout, done.stderr
    assert "Permission denied" in done.stdout
    assert "permissions" in done.stdout


def test_list_file(tree) -> None:
    listed = tree / "train.txt"
    listed.write_bytes(
        "# a comment\n\nä.png\r\na/2.png\n  a b/c d.png \n".encode() + bytes(tree) + b"/B.png\n"
    )
    source = build_image_source(str(listed))
    assert ids(source) == ["ä.png", "a/2.png", "a b/c d.png", f"{tree}/B.png"]
    other = tree.parent / "lists.lst"
    other.write_text("a/2.png\n")
    assert len(ListSource(str(other), root=str(tree))) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a/2.png 17\n", r"line 1 has a second column '17'.*cut"),
        (b"a/2.png\nB.png\tcat\n", r"line 2 has a second column 'cat'"),
        (b"a/2.png\ngone.png\n", r"1 of 2 files looked for .*gone\.png.*set root"),
        (b"# nothing\n\n", "0 images"),
    ],
)
def test_list_files_that_are_refused(tree, content: bytes, message: str) -> None:
    listed = tree / "bad.txt"
    listed.write_bytes(content)
    with pytest.raises(DataError, match=message):
        build_image_source(str(listed))


def test_missing_list() -> None:
    with pytest.raises(DataError, match="cannot read the image list /no/list.txt"):
        ListSource("/no/list.txt")


def test_several_roots(tree, tmp_path) -> None:
    write_image(tmp_path / "second/z.png")
    source = build_image_source([str(tree), str(tmp_path / "second")])
    assert isinstance(source, ConcatSource)
    assert len(source) == 7
    assert source[6]["image_id"] == "z.png"
    assert source[0] == FolderSource(str(tree))[0]
    for index in (-1, 7):
        with pytest.raises(IndexError):
            source[index]
    assert source.names_digest() != build_image_source([str(tmp_path / "second"), str(tree)]).names_digest()


def test_digest_follows_names_and_order_not_the_root(tree, tmp_path) -> None:
    before = FolderSource(str(tree)).names_digest()
    moved = tree.rename(tmp_path / "moved")
    assert FolderSource(str(moved)).names_digest() == before
    (moved / "B.png").rename(moved / "C.png")
    assert FolderSource(str(moved)).names_digest() != before
    assert PackedNames([b"ab", b"c"]).digest() != PackedNames([b"a", b"bc"]).digest()


def test_registered_names(tree, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    records = [{"file_name": str(tree / "B.png"), "image_id": 7, "annotations": [1]}]
    DatasetCatalog.register("densessl_test_records", lambda: records)
    try:
        source = build_image_source("densessl_test_records")
    finally:
        DatasetCatalog.remove("densessl_test_records")
    assert isinstance(source, RecordsSource)
    assert [*source] == [{"file_name": str(tree / "B.png"), "image_id": 7}]

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    with pytest.raises(
        DataError, match=r"imagenet_1k_train.*imagenet/train does not exist.*DETECTRON2_DATASETS = "
    ):
        build_image_source("imagenet_1k_train")
    write_image(tmp_path / "sets/imagenet/train/n01/a.JPEG")
    assert ids(build_image_source("imagenet_1k_train")) == ["n01/a.JPEG"]
    write_image(tmp_path / "sets/coco/unlabeled2017/1.jpg")
    assert ids(build_image_source("coco_2017_unlabeled")) == ["1.jpg"]


def test_text_image_ids() -> None:
    source = RecordsSource(
        [{"file_name": "x/ü.jpg", "image_id": "2007_01"}, {"file_name": "y.jpg", "image_id": 2}], "set"
    )
    assert [record["image_id"] for record in source] == ["2007_01", "2"]
    assert source[0]["file_name"] == "x/ü.jpg"


MEMORY_PROGRAM = """
import os, sys
from densessl.data.records import PackedNames

def private_kib():
    with open("/proc/self/smaps_rollup") as stream:
        return sum(int(line.split()[1]) for line in stream if line.startswith("Private_"))

before = private_kib()
names = PackedNames(b"train/n%08d/n%08d_%07d.JPEG" % (i // 1300, i // 1300, i) for i in range(1_000_000))
held = private_kib() - before
pipes = []
for worker in range(8):
    reader, writer = os.pipe()
    if os.fork() == 0:
        start = private_kib()
        total = sum(len(names[i]) for i in range(worker, 1_000_000, 8))
        os.write(writer, b"%d" % (private_kib() - start))
        os._exit(0)
    os.close(writer)
    pipes.append(reader)
workers = [int(os.read(reader, 100)) for reader in pipes]
print(names.nbytes, held, sum(workers))
"""


def test_a_million_names_in_eight_workers_take_less_than_150_mb() -> None:
    done = run_python(MEMORY_PROGRAM)
    packed, held, workers = map(int, done.stdout.split())
    assert packed < 50e6
    assert (held + workers) * 1024 < 150e6, (held, workers)
