"""Addresses in train.init_checkpoint: iopath's handlers, sizes, and hashes where a name promises one."""

import hashlib
import http.server
import sys
import threading
import types

import numpy as np
import pytest
import torch
from detectron2.utils.file_io import Detectron2Handler
from weight_files import small_trunk, write

from densessl.checkpoint import locate
from densessl.checkpoint.job import convert_file
from densessl.checkpoint.locate import promised_hash, resolve_weights_path
from densessl.checkpoint.reading import read_weights
from densessl.errors import CheckpointError


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        missing = 10 if "short" in self.path else 0
        self.send_header("Content-Length", str(len(content) + missing))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server with some weight files; its address is `server.address`."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    site = http.server.HTTPServer(("127.0.0.1", 0), _Handler)
    site.address = f"http://127.0.0.1:{site.server_port}/"
    path = write(tmp_path / "r.pth", {"state_dict": small_trunk()})
    with open(path, "rb") as file:
        content = file.read()
    right, wrong = hashlib.sha256(content).hexdigest()[:8], "0" * 8
    names = ("r.pth", "short.pth", f"r-{right}.pth", f"r-{wrong}.pth", "ImageNetPretrained/MSRA/r.pth")
    site.files = {f"/{name}": content for name in names}
    site.right, site.wrong = right, wrong
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    yield site
    site.shutdown()
    thread.join()
    site.server_close()


def test_a_web_address(server, tmp_path):
    convert_file(server.address + "r.pth", str(tmp_path / "o.pkl"), "detectron2", say=len)
    found = read_weights(str(tmp_path / "o.pkl"))["model"]["stem.conv1.weight"]
    assert torch.equal(torch.from_numpy(found), small_trunk()["conv1.weight"])


def test_a_name_of_detectron2(server, monkeypatch):
    monkeypatch.setattr(Detectron2Handler, "S3_DETECTRON2_PREFIX", server.address)
    path = resolve_weights_path("detectron2://ImageNetPretrained/MSRA/r.pth")
    assert torch.equal(read_weights(path)["state_dict"]["bn1.bias"], small_trunk()["bn1.bias"])


def test_hash_in_the_name(server, monkeypatch):
    monkeypatch.setattr(locate, "HASHED_SITES", (server.address,))
    resolve_weights_path(f"{server.address}r-{server.right}.pth")
    with pytest.raises(CheckpointError, match=rf"sha256 begins {server.right}, not 00000000: it is damaged"):
        resolve_weights_path(f"{server.address}r-{server.wrong}.pth")


def test_a_site_that_makes_no_promise_is_not_held_to_one(server):
    resolve_weights_path(f"{server.address}r-{server.wrong}.pth")


@pytest.mark.parametrize("name", ["short.pth", "none.pth"])
def test_incomplete_and_absent_files(server, name):
    with pytest.raises(CheckpointError, match=f"{name} cannot be fetched: .*(retrieval incomplete|404)"):
        resolve_weights_path(server.address + name)


def test_an_unknown_kind_of_address():
    with pytest.raises(CheckpointError, match="gopher://x/r.pth cannot be fetched"):
        resolve_weights_path("gopher://x/r.pth")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://download.pytorch.org/models/resnet50-0676ba61.pth", "0676ba61"),
        ("https://download.pytorch.org/models/resnet50-20240101.bin", None),
        ("https://elsewhere.org/resnet50-0676ba61.pth", None),
        (
            "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
            None,
        ),
        (
            "https://download.openmmlab.com/mmselfsup/1.x/densecl/densecl_resnet50_8xb32-coslr-200e_in1k/"
            "densecl_resnet50_8xb32-coslr-200e_in1k_20220825-3078723b.pth",
            "3078723b",
        ),
    ],
)
def test_promises(address, expected):
    assert promised_hash(address) == expected


def test_training_checkpoints_of_mmengine(tmp_path, monkeypatch):
    """They hold log buffers of a class that need not be installed, and of which nothing is run."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self):
            self.max_length, self._log_history = 1000000, np.array([1.0, 2.0])

        def __setstate__(self, state):
            raise AssertionError("code of the file's class was run")

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        content = {
            "meta": {"epoch": 200},
            "state_dict": small_trunk(),
            "message_hub": {"log_scalars": {"train/loss": HistoryBuffer()}},
        }
        torch.save(content, tmp_path / "epoch_200.pth")
    read = read_weights(str(tmp_path / "epoch_200.pth"))
    assert read["message_hub"]["log_scalars"]["train/loss"]._log_history.tolist() == [1.0, 2.0]
    convert_file(str(tmp_path / "epoch_200.pth"), str(tmp_path / "o.pth"), "densessl", say=len)
