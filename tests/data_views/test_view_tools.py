"""The two commands about views run, and draw or print what they say."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

TOOLS = Path(__file__).parents[2] / "tools"
DETECTOR = str(TOOLS.parent / "configs" / "quickstart" / "mask_rcnn_R_18_coral_random.py")


def run(monkeypatch, tool: str, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", [tool, *args])
    runpy.run_path(str(TOOLS / tool), run_name="__main__")


def test_visualize_views_draws_rows(tmp_path, monkeypatch):
    for index, image in enumerate((data.astronaut, data.coffee)):
        Image.fromarray(image()).save(tmp_path / f"{index}.jpg")
    output = tmp_path / "views.png"
    run(monkeypatch, "visualize_views.py", "--images", str(tmp_path), "--output", str(output), "--size", "96")
    picture = np.asarray(Image.open(output))
    assert picture.shape == (2 * 96 + 6, 3 * 96 + 2 * 6, 3)
    left = picture[:96, :96].reshape(-1, 3).tolist()
    assert [0, 114, 178] in left  # outline of the first crop
    assert [230, 159, 0] in left  # and of the second


def test_visualize_views_needs_images(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "visualize_views.py", "--output", "nowhere.png")
    assert stopped.value.code == 2
    assert "--images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--images", "/nowhere"], 3, "DataError: /nowhere does not exist"),
        (["--images", "x", "--output", "x.foo"], 2, "no picture format"),
        (["--images", "x", "--num", "0"], 2, "--num must be at least 1"),
        (["--images", "x", "a=1"], 2, "none is given"),
        (["--config-file", DETECTOR], 2, "builds a DatasetMapper, which makes no two views"),
    ],
)
def test_visualize_views_says_what_is_wrong(monkeypatch, capsys, arguments, status, message):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "visualize_views.py", *arguments)
    assert stopped.value.code == status
    assert message in capsys.readouterr().err


def test_visualize_views_output_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    Image.fromarray(data.coffee()).save(tmp_path / "a.jpg")
    output = tmp_path / "none" / "views.png"
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "visualize_views.py", "--images", str(tmp_path), "--output", str(output))
    assert stopped.value.code == 2
    assert "views.png cannot be written" in capsys.readouterr().err


def test_benchmark_views_prints_a_table(monkeypatch, capsys):
    threads = torch.get_num_threads()
    try:
        run(monkeypatch, "benchmark_views.py", "--rounds", "1", "--batch", "2", "--crop-size", "32")
    finally:
        torch.set_num_threads(threads)
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.count("|") for line in lines] == [4] * 6
    assert lines[2].startswith("| PIL stack |")
    assert "1.00x" in lines[2]
