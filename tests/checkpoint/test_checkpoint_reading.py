"""Weight files of any origin: nothing in them runs, damage and refusal are told apart."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from densessl.checkpoint.reading import read_training_checkpoint, read_weights
from densessl.errors import CheckpointError


class Touch:
    """Creates a file when unpickled without protection."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def write_zip(path, content):
    torch.save(content, path)


def write_legacy(path, content):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_pickle(path, content):
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_pickle])
@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_malicious_file_is_refused_and_not_run(tmp_path, write, name):
    path, touched = tmp_path / name, tmp_path / "touched"
    write(path, {"model": Touch(touched)})
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as failure:
        read_weights(str(path))
    assert not touched.exists()
    assert path.read_bytes() == before
    assert "weights_only" not in str(failure.value)
    assert "open, which is neither a tensor nor plain data" in str(failure.value)


def test_malicious_training_checkpoint_is_refused(tmp_path):
    touched = tmp_path / "touched"
    torch.save({"model": {}, "trainer": Touch(touched)}, tmp_path / "model_0000001.pth")
    with pytest.raises(CheckpointError, match=r"names _?io\.open"):
        read_training_checkpoint(str(tmp_path / "model_0000001.pth"))
    assert not touched.exists()


FOREIGN = {
    "state_dict": {"w": torch.arange(6.0).reshape(2, 3)},
    "args": argparse.Namespace(lr=0.3, name="r50"),
    "best": np.float64(0.5),
    "epoch": np.int64(7),
    "flag": np.bool_(True),
    "array": np.arange(4, dtype=np.float32),
}


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_foreign_files_with_numpy_scalars_and_a_namespace(tmp_path, write):
    write(tmp_path / "weights.pth", FOREIGN)
    content = read_weights(str(tmp_path / "weights.pth"))
    assert torch.equal(content["state_dict"]["w"], FOREIGN["state_dict"]["w"])
    assert content["args"] == FOREIGN["args"]
    assert (content["best"], content["epoch"], content["flag"]) == (0.5, 7, True)
    assert content["array"].tolist() == [0, 1, 2, 3]


def test_our_own_files_are_not_given_the_allowance(tmp_path):
    write_zip(tmp_path / "model_0000001.pth", FOREIGN)
    with pytest.raises(CheckpointError, match=r"it names .*argparse\.Namespace"):
        read_training_checkpoint(str(tmp_path / "model_0000001.pth"))


@pytest.mark.parametrize("protocol", range(6))
def test_model_zoo_pickles(tmp_path, protocol):
    content = {
        "model": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.int64(5)},
        "__author__": "MOCO",
    }
    (tmp_path / "r50.pkl").write_bytes(pickle.dumps(content, protocol))
    read = read_weights(str(tmp_path / "r50.pkl"))
    assert read["__author__"] == "MOCO"
    assert np.array_equal(read["model"]["w"], content["model"]["w"])
    assert read["model"]["n"] == 5


def test_python_2_pickle_of_an_array(tmp_path):
    """The bytes that Python 2.7 with numpy 1.16 writes for {"w": float32 array([1, 2])} in protocol 2."""
    raw = (
        b"\x80\x02}q\x00U\x01wq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b"
        b"\x87Rq\x04(K\x01K\x02\x85cnumpy\ndtype\nq\x05U\x02f4K\x00K\x01\x87Rq\x06(K\x03U\x01<NNNJ\xff\xff\xff\xffJ"
        b"\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00@tbs."
    )
    (tmp_path / "old.pkl").write_bytes(raw)
    assert read_weights(str(tmp_path / "old.pkl"))["w"].tolist() == [1.0, 2.0]


def test_safetensors_whose_length_begins_like_a_pickle(tmp_path):
    """The header's length is the first thing in the file; 0x80 is how pickles start."""
    path = tmp_path / "weights.pth"
    for padding in range(0, 256, 8):  # headers are padded to multiples of 8
        save_file({"a": torch.ones(2)}, path, {"note": "x" * padding})
        if path.read_bytes()[0] == pickle.PROTO[0]:
            break
    assert path.read_bytes().startswith(pickle.PROTO)
    assert torch.equal(read_weights(str(path))["model"]["a"], torch.ones(2))


def test_safetensors(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors", metadata={"format": "pt"})
    content = read_weights(str(tmp_path / "w.safetensors"))
    assert content["model"]["w"].tolist() == [1.0, 1.0]
    assert content["metadata"] == {"format": "pt"}


def half_of(path):
    os.truncate(path, os.path.getsize(path) // 2)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("w.pth", write_zip),
        ("w.pth", write_legacy),
        ("w.pkl", lambda path, content: path.write_bytes(pickle.dumps({"w": np.zeros(99)}))),
        ("w.safetensors", lambda path, content: save_file(content["state_dict"], path)),
    ],
)
def test_truncated_foreign_files_are_called_damaged(tmp_path, name, write):
    path = tmp_path / name
    write(path, {"state_dict": {"w": torch.zeros(1000)}})
    half_of(path)
    with pytest.raises(CheckpointError, match=rf"{path} is damaged") as failure:
        read_weights(str(path))
    assert "weights_only" not in str(failure.value)


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.safetensors"])
def test_empty_text_and_missing_files(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(CheckpointError, match="does not exist"):
        read_weights(str(path))
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged: 0 bytes"):
        read_weights(str(path))
    path.write_text("<html>404 not found</html>")
    with pytest.raises(CheckpointError, match="is damaged or not a torch file") as failure:
        read_weights(str(path))
    assert "weights_only" not in str(failure.value)


def test_a_file_of_one_tensor_is_no_checkpoint(tmp_path):
    torch.save(torch.zeros(2), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="holds a Tensor, not a dict"):
        read_weights(str(tmp_path / "w.pth"))
