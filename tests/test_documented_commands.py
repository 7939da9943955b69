"""Every command of the documentation and of the configs' heads parses; files that the pages name exist.

What two CPU cores can do is also run: test_documented_runs.py.
"""

import argparse
import re
import runpy
import sys
from collections import Counter

import pytest
from documented import ALL, OF_PAGES, PAGES, ROOT, TRAINER, rule

from densessl.engine import launch

FILE = re.compile(
    r"(?<![\w/.-])((?:tools|datasets|configs|projects|docs|tests|densessl)/[\w/.-]+\.(?:py|sh|md))\b"
)


class Parsed(Exception):
    """Raised where the work of a tool would begin."""


def stop(*args: object, **kwargs: object) -> None:
    raise Parsed


def test_commands_are_found():
    assert len(ALL) > 100
    assert Counter(map(rule, OF_PAGES))["runs"] > 30
    assert {script for script, *_ in ALL} >= {TRAINER, "tools/make_report.py"}


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_command_parses(command, monkeypatch):
    script, *arguments = command
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    if script == TRAINER:  # its config and overrides are checked as well
        monkeypatch.setattr(launch, "launch", stop)
    else:
        for name in ("parse_args", "parse_intermixed_args"):
            original = getattr(argparse.ArgumentParser, name)
            monkeypatch.setattr(
                argparse.ArgumentParser, name, lambda *a, _parse=original, **k: stop(_parse(*a, **k))
            )
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    text = re.sub(r"(WXinlong|facebookresearch)/\S+ \S+", "", page.read_text())  # files of the originals
    names = [*FILE.findall(text), *re.findall(r"\]\((?!http)([^)#]+)\)", text)]
    assert not [name for name in names if not ((ROOT / name).exists() or (page.parent / name).exists())]
