"""docs/conversion.md: every command runs, and every layout has one."""

import os
import re
import runpy
import shlex

import pytest
from weight_files import contents, small_trunk, write

from densessl.checkpoint.layouts import BY_NAME, LAYOUTS

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
with open(os.path.join(ROOT, "docs", "conversion.md"), encoding="utf-8") as page:
    ROWS = re.findall(
        r"^\| `([\w-]+)` \|.*\| `python (tools/convert_checkpoint\.py [^`]+)` \|$", page.read(), re.M
    )


@pytest.fixture(scope="module")
def files():
    return contents(small_trunk())


def test_every_layout_has_a_row():
    assert [name for name, _ in ROWS if name not in BY_NAME] == []
    assert {layout.name for layout in LAYOUTS} - {name for name, _ in ROWS} == {"vitdet"}


@pytest.mark.parametrize(("layout", "command"), ROWS, ids=[name for name, _ in ROWS])
def test_the_command_of_a_row(tmp_path, monkeypatch, files, layout, command, capsys):
    """IN is a small file of the layout that its name says; the row's layout is at one of the two ends."""
    tool, source, target, *rest = shlex.split(command)
    given = source.split(".")[0]
    write(tmp_path / source, files[given])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(os.path.join(ROOT, tool))["main"]([source, target, *rest])
    out = capsys.readouterr().out
    assert f"wrote {target} (" in out
    assert layout in (given, rest[rest.index("--to") + 1])
    assert f"({given}), " in out
    assert ("verified against torchvision" in out) == ("--verify" in rest)
