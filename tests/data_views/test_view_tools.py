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
