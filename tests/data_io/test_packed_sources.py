"""LMDB files and tar shards: contents bit-equal to the files, forked readers, and every fault of a shard."""

import io
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from densessl.data import packed_sources, tar_index
from densessl.data.packed_sources import LmdbSource, TarSource, find_shards
from densessl.data.sources import FolderSource, build_image_source
from densessl.errors import DataError

TOOL = Path(__file__).parents[2] / "tools/folder2lmdb.py"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Where indexes of shards are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/densessl/tar"


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((3, 5, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for number, name in enumerate((b"b/2.png", b"b/10.png", b"a.png", b"caf\xe9.png", b"x y.png")):
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(png(number))
    return root


def pack(source: Path, target: Path) -> int:
    """`pack` of the tool, in this process."""
    return runpy.run_path(str(TOOL))["pack"](str(source), str(target))


def run_tool(*args: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", str(TOOL), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_lmdb_equals_its_folder_bit_for_bit(folder, tmp_path) -> None:
    target = tmp_path / "photos.lmdb"
    done = run_tool(folder, target)
    assert done.returncode == 0, done.stderr
    assert "5/5 images" in done.stdout
    assert sorted(os.listdir(tmp_path)) == ["photos", "photos.lmdb"]
    files, packed = FolderSource(str(folder)), build_image_source(str(target))
    assert isinstance(packed, LmdbSource)
    assert packed.names_digest() == files.names_digest()
    for index in range(5):
        record = packed[index]
        assert record["image_id"] == files[index]["image_id"]
        assert record["image_bytes"] == Path(files[index]["file_name"]).read_bytes()


def test_folder2lmdb_goes_on_after_a_stop(folder, tmp_path) -> None:
    target = tmp_path / "photos.lmdb"
    partial = lmdb.open(f"{target}.partial", subdir=False, map_size=1 << 26)
    with partial.begin(write=True) as transaction:
        transaction.put(b"a.png", b"cut")  # other size than the file: written anew
        transaction.put(b"b/2.png", png(0))
    partial.close()
    assert pack(folder, target) == 5
    assert [record["image_bytes"] for record in LmdbSource(str(target))] == [
        Path(record["file_name"]).read_bytes() for record in FolderSource(str(folder))
    ]


def test_folder2lmdb_refuses(folder, tmp_path) -> None:
    (tmp_path / "there.lmdb").write_bytes(b"")
    refused = run_tool(folder, tmp_path / "there.lmdb")
    assert refused.returncode == 3
    assert "there.lmdb exists" in refused.stderr
    with pytest.raises(DataError, match="does not exist"):
        pack(tmp_path / "none", tmp_path / "n.lmdb")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot write .*choose another target"):
        pack(folder, tmp_path / "file" / "n.lmdb")
    (tmp_path / "d.lmdb.partial").mkdir()
    with pytest.raises(DataError, match="cannot write .*choose another target"):
        pack(folder, tmp_path / "d.lmdb")
    other = lmdb.open(str(tmp_path / "n.lmdb.partial"), subdir=False, map_size=1 << 26)
    with other.begin(write=True) as transaction:
        transaction.put(b"of another folder.png", b"x")
    other.close()
    with pytest.raises(DataError, match="6 entries for 5 images"):
        pack(folder, tmp_path / "n.lmdb")
    deep = folder / ("d" * 250) / ("e" * 250) / ("f" * 50)
    deep.mkdir(parents=True)
    (deep / "a.png").write_bytes(png(1))
    with pytest.raises(DataError, match="keys have at most 511 bytes"):
        pack(folder, tmp_path / "m.lmdb")
    assert not (tmp_path / "n.lmdb").exists()
    assert not (tmp_path / "m.lmdb").exists()


def test_folder2lmdb_help_is_light() -> None:
    program = (
        "import runpy, sys\nsys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(TOOL)!r}, run_name='__main__')\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip().endswith("False"), done.stderr


def test_lmdb_in_forked_workers_from_a_read_only_folder_beside_a_stale_lock(folder, tmp_path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    pack(folder, store / "p.lmdb")
    (store / "p.lmdb-lock").write_bytes(b"stale")
    (store / "p.lmdb").chmod(0o444)
    store.chmod(0o555)
    source = LmdbSource(str(store / "p.lmdb"))
    expected = [record["image_bytes"] for record in source]  # the parent's handle is open before the fork
    for _ in range(3):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            same = [source[index]["image_bytes"] for index in range(5)] == expected
            os.write(writer, b"1" if same else b"0")
            os._exit(0)
        os.close(writer)
        assert os.read(reader, 1) == b"1"
        assert os.waitpid(child, 0)[1] == 0
        os.close(reader)
    assert source[0]["image_bytes"] == expected[0]
    assert (store / "p.lmdb-lock").read_bytes() == b"stale"
    store.chmod(0o755)


def test_lmdb_of_foreign_keys_in_a_folder(tmp_path) -> None:
    environment = lmdb.open(str(tmp_path / "foreign"), map_size=1 << 22)
    with environment.begin(write=True) as transaction:
        for key in (b"__len__", b"__keys__", b"0001", b"0000"):
            transaction.put(key, png(1))
    environment.close()
    source = build_image_source(str(tmp_path / "foreign"))
    assert [record["image_id"] for record in source] == ["0000", "0001"]


def test_lmdb_faults(folder, tmp_path) -> None:
    with pytest.raises(DataError, match=r"cannot open LMDB .*none\.lmdb"):
        LmdbSource(str(tmp_path / "none.lmdb"))
    (tmp_path / "text.lmdb").write_text("text" * 5000)
    with pytest.raises(DataError, match=r"cannot open LMDB .*text\.lmdb"):
        build_image_source(str(tmp_path / "text.lmdb"))
    pack(folder, tmp_path / "p.lmdb")
    data = (tmp_path / "p.lmdb").read_bytes()
    (tmp_path / "cut.lmdb").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"cut\.lmdb is truncated: \d+ of \d+ bytes"):
        LmdbSource(str(tmp_path / "cut.lmdb"))


def write_shard(path, members: list[tuple[str, bytes]], **options) -> None:
    with tarfile.open(path, "w", **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path):
    root = tmp_path / "shards"
    root.mkdir()
    number = 0
    for shard in range(3):
        members = []
        for _ in range(4):
            members += [
                (f"{number:06d}.cls", b"7"),
                (f"{number:06d}.png", png(number)),
                (f"{number:06d}.json", b"{}"),
            ]
            number += 1
        write_shard(root / f"train-{shard:02d}.tar", members)
    return root


def values(source) -> list[int]:
    return [int(np.asarray(Image.open(io.BytesIO(record["image_bytes"])))[0, 0, 0]) for record in source]


def test_shards_by_folder_pattern_and_name(shards) -> None:
    for path in (shards, shards / "train-*.tar"):
        source = build_image_source(str(path))
        assert isinstance(source, TarSource)
        assert values(source) == list(range(12))
    assert values(build_image_source(str(shards / "train-01.tar"))) == [4, 5, 6, 7]
    record = source[5]
    assert record["image_id"] == "train-01.tar/000005.png"
    assert record["file_name"] == str(shards / "train-01.tar/000005.png")
    assert values(TarSource([str(shards / "train-02.tar"), str(shards / "train-00.tar")]))[0] == 0


def test_shards_read_at_random_with_few_descriptors_and_after_a_fork(shards, monkeypatch) -> None:
    monkeypatch.setattr(packed_sources, "MAX_OPEN_SHARDS", 2)
    source = TarSource(find_shards(str(shards)))
    before = len(os.listdir("/proc/self/fd"))
    for index in (11, 0, 5, 10, 1, 6):
        assert values([source[index]]) == [index]
    assert len(os.listdir("/proc/self/fd")) == before + 2
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"1" if values(source) == list(range(12)) else b"0")
        os._exit(0)
    assert os.read(reader, 1) == b"1"
    os.waitpid(child, 0)


def test_unsafe_and_repeated_members_are_left_out_and_nothing_is_written(tmp_path, cache, caplog) -> None:
    shard = tmp_path / "deep/er/bad.tar"
    shard.parent.mkdir(parents=True)
    with tarfile.open(shard, "w") as archive:
        for name in (
            "../escape.png",
            "/absolute.png",
            "a/../../b.png",
            "good.png",
            "good.png",
            "._good.png",
            "note.txt",
        ):
            info = tarfile.TarInfo(name)
            info.size = len(png(9))
            archive.addfile(info, io.BytesIO(png(9)))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"link{int(kind)}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    for _ in range(2):  # the second time from the kept index
        caplog.clear()
        source = TarSource([str(shard)])
        assert [record["image_id"] for record in source] == ["bad.tar/good.png"]
        assert "4 links, devices or sparse files, 1 repeated names, 3 unsafe names" in caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file() and cache not in path.parents]
    assert written == [shard]
    assert not Path("/absolute.png").exists()


def test_long_and_odd_member_names(tmp_path) -> None:
    names = ["d" * 150 + "/" + "e" * 150 + ".png", "ü\N{SNOWMAN}.png", "new\nline.png", "caf\udce9.png"]
    for number, style in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        write_shard(tmp_path / f"{number}.tar", [(name, png(3)) for name in names], format=style)
        source = TarSource([str(tmp_path / f"{number}.tar")])
        assert [record["image_id"].split("/", 1)[1] for record in source] == names
        assert values(source) == [3] * 4


# members take 512 + 3072 bytes each
@pytest.mark.parametrize(
    ("part", "length"),
    [
        ("in a member", 5000),
        ("between members", 3 * 3584),
        ("in the last member", 3 * 3584 + 900),
        ("in a header", 3700),
        ("damaged header", None),
    ],
)
def test_truncated_shards(tmp_path, part: str, length: int | None) -> None:
    shard = tmp_path / "x.tar"
    write_shard(shard, [(f"{n}.png", os.urandom(3000)) for n in range(4)])
    data = bytearray(shard.read_bytes())[:length]
    if part == "damaged header":
        data[2 * 3584 + 10] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(DataError, match=rf"x\.tar \({len(data)} bytes\) is (truncated|damaged)"):
        TarSource([str(shard)])


def test_other_shard_faults(shards, tmp_path) -> None:
    with pytest.raises(DataError, match=r"cannot read the shard .*gone\.tar: No such file"):
        build_image_source(str(tmp_path / "gone.tar"))
    with pytest.raises(DataError, match="no file matches the shard pattern"):
        build_image_source(str(tmp_path / "no-*.tar"))
    with pytest.raises(DataError, match=r"a\.tar\.gz is compressed"):
        build_image_source(str(tmp_path / "a.tar.gz"))
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.tar \(0 bytes\) is damaged"):
        build_image_source(str(tmp_path / "empty.tar"))
    write_shard(tmp_path / "text.tar", [("a.txt", b"x")])
    with pytest.raises(DataError, match=r"text\.tar first, holds 0 images"):
        build_image_source(str(tmp_path / "text.tar"))
    source = TarSource(find_shards(str(shards)))
    os.truncate(shards / "train-02.tar", 700)
    with pytest.raises(DataError, match="has become shorter"):
        source[11]
    os.remove(shards / "train-01.tar")
    with pytest.raises(DataError, match=r"train-01\.tar/000004\.png: No such file"):
        source[4]


def headers_read(monkeypatch) -> list[str]:
    """Names of the shards whose headers are read from now on."""
    read = []
    members = tar_index._image_members
    monkeypatch.setattr(
        tar_index, "_image_members", lambda shard, *a: (read.append(shard), members(shard, *a))[1]
    )
    return read


def test_headers_are_read_once_and_again_when_a_shard_changes(shards, cache, monkeypatch) -> None:
    paths = find_shards(str(shards))
    read = headers_read(monkeypatch)
    first = TarSource(paths)
    again = TarSource(paths)
    assert read == sorted(paths)
    assert again.names_digest() == first.names_digest()
    assert values(again) == list(range(12))
    read.clear()
    write_shard(shards / "train-01.tar", [("new.png", png(99))])
    assert values(TarSource(paths)) == [0, 1, 2, 3, 99, 8, 9, 10, 11]
    assert read == [str(shards / "train-01.tar")]
    # same size, other content: the time of modification tells
    read.clear()
    write_shard(shards / "train-01.tar", [("neu.png", png(98))])
    os.utime(shards / "train-01.tar", ns=(0, 1))
    assert values(TarSource(paths))[4] == 98
    assert read == [str(shards / "train-01.tar")]
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "pickle"])
def test_a_damaged_index_is_made_again(shards, cache, monkeypatch, caplog, damage) -> None:
    TarSource([str(shards / "train-00.tar")])
    (kept,) = cache.iterdir()
    content = bytearray(kept.read_bytes())
    if damage == "flipped":
        content[content.index(b"000002.png")] ^= 1  # a name that could be one
    kept.write_bytes(
        {"cut": content[: len(content) // 2], "flipped": content, "text": b"text"}.get(damage, b"")
    )
    if damage == "pickle":
        with open(kept, "wb") as stream:
            np.savez(stream, stamp=np.array([object()], dtype=object))
    read = headers_read(monkeypatch)
    for _ in range(2):
        assert values(TarSource([str(shards / "train-00.tar")])) == [0, 1, 2, 3]
    assert len(read) == 1
    assert "will be made again" in caplog.text


def test_index_that_cannot_be_kept_is_no_error(shards, cache, monkeypatch) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert values(TarSource([str(shards / "train-00.tar")])) == [0, 1, 2, 3]
