"""The commands that draw features: pictures of the right size, and one clear error for what is wrong."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densessl.errors import CheckpointError, ConfigError
from densessl.visualization.commands import save_rows

TOOLS = Path(__file__).parents[2] / "tools"
DRAWING = ("correspondences", "features", "clusters")


def run(name: str, *arguments) -> None:
    runpy.run_path(str(TOOLS / f"visualize_{name}.py"))["main"]([str(a) for a in arguments])


@pytest.mark.parametrize(
    ("name", "width"),
    [("correspondences", 2 * (2 * 96 + 4) + 6), ("features", 3 * 128 + 12), ("clusters", 3 * 128 + 12)],
)
def test_one_row_for_each_image(name, width, tmp_path, capsys, pretrain_dir, photographs):
    output = tmp_path / "out.png"
    run(name, pretrain_dir, photographs, "--untrained", "--output", output)
    height = 96  # of a view, and of a photograph of 4:3 at 128 pixels
    assert np.asarray(Image.open(output)).shape == (2 * height + 6, width, 3)
    assert str(output) in capsys.readouterr().out


def test_a_checkpoint_with_its_config_is_enough(tmp_path, pretrain_dir, photographs):
    state = torch.load(pretrain_dir / "model_0000100.pth", weights_only=True)
    backbone = dict(
        _target_="densessl.modeling.backbone.build_resnet", depth=18, out_features=["res4", "res5"]
    )
    state["config"] = dict(model=dict(backbone=backbone, pixel_mean=[120.0] * 3, pixel_std=[60.0] * 3))
    torch.save(state, tmp_path / "w.pth")
    pictures = []
    for feature in ("res5", "res4"):
        run("features", tmp_path / "w.pth", photographs, "--feature", feature, "--output", tmp_path / "a.png")
        pictures.append(np.asarray(Image.open(tmp_path / "a.png")))
    assert pictures[0].shape == pictures[1].shape
    assert (pictures[0] != pictures[1]).any()
    run("features", pretrain_dir, photographs, "--output", tmp_path / "b.png")
    np.testing.assert_array_equal(pictures[0], np.asarray(Image.open(tmp_path / "b.png")))


@pytest.mark.parametrize("name", DRAWING)
def test_what_is_wrong_is_said(name, tmp_path, pretrain_dir, photographs, finetune_dirs):
    output = ["--output", tmp_path / "x.png"]
    (tmp_path / "empty").mkdir()
    torch.save({"model": {}}, tmp_path / "foreign.pth")
    for arguments, error, message in (
        ([pretrain_dir, tmp_path / "absent", *output], ConfigError, "absent' does not exist"),
        ([pretrain_dir, tmp_path / "empty", *output], ConfigError, "has no image in it"),
        ([tmp_path / "absent", photographs, *output], ConfigError, "there is no run directory"),
        ([tmp_path / "foreign.pth", photographs, *output], ConfigError, "holds no config"),
        ([finetune_dirs["new"], photographs, *output], CheckpointError, "has no checkpoint yet"),
        (
            [pretrain_dir, photographs, *output, "--feature", "res9"],
            ConfigError,
            "no output 'res9', only res5",
        ),
        ([pretrain_dir, photographs, *output, "--num", "0"], ConfigError, "--num 0 must be at least 1"),
        ([pretrain_dir, photographs, "--output", tmp_path / "x.foo"], ConfigError, "no picture format"),
        ([pretrain_dir, photographs, "--output", tmp_path / "none/x.png"], ConfigError, "there is no folder"),
    ):
        with pytest.raises(error, match=message):
            run(name, *arguments)
    assert not (tmp_path / "x.png").exists()


def test_rows_of_different_sizes_keep_their_pixels(tmp_path):
    rows = [
        [np.full((4, 5, 3), 10, np.uint8), np.full((2, 3, 3), 20, np.uint8)],
        [np.full((3, 2, 3), 30, np.uint8)],
    ]
    save_rows(rows, str(tmp_path / "a.png"))
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert sheet.shape == (4 + 6 + 3, 5 + 6 + 3, 3)
    assert [int((sheet[..., 0] == v).sum()) for v in (10, 20, 30)] == [20, 6, 6]


@pytest.mark.parametrize("name", [*DRAWING, "views"])
def test_help_does_not_import_torch(name):
    tool = str(TOOLS / f"visualize_{name}.py")
    code = (
        "import runpy, sys\n"
        "sys.argv = ['tool', '--help']\n"
        f"try:\n    runpy.run_path({tool!r}, run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        "assert not {'torch', 'cv2'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
