"""Every command of the documentation and of the configs' heads parses; files that the pages name exist."""

import argparse
import ast
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from densessl.engine import launch

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "projects").rglob("*.md")])
PAGES.append(ROOT / "datasets/README.md")
CONFIGS = sorted(path for folder in ("configs", "projects") for path in (ROOT / folder).rglob("*.py"))
COMMAND = re.compile(r"(?:python |torchrun .*?)?((?:tools|datasets)/\w+\.py)\b(.*)")
INLINE = re.compile(r"`((?:python )?(?:tools|datasets)/\w+\.py [^`]*)`")
FILE = re.compile(
    r"(?<![\w/.-])((?:tools|datasets|configs|projects|docs|tests|densessl)/[\w/.-]+\.(?:py|sh|md))\b"
)


def text_of(path: Path) -> str:
    """A page, or the docstring of a config, with continued lines joined."""
    text = path.read_text()
    if path.suffix == ".py":
        text = (ast.get_docstring(ast.parse(text)) or "").replace("<this>", str(path.relative_to(ROOT)))
    return re.sub(r"\\\n\s*", "", text)


def commands(path: Path) -> Iterator[tuple[str, ...]]:
    """(script, argument, ...) of each Python command; placeholders of a certain type are filled in."""
    lines = text_of(path).splitlines()
    if path.suffix == ".md":
        lines = [line for line in lines if line.startswith("    ")] + INLINE.findall("\n".join(lines))
    for line in lines:
        line = line.strip().replace("=NUMBER", "=1").replace(" LAYOUT", " detectron2")
        for part in line.split(" && "):
            if found := COMMAND.match(part):
                yield (found[1], *shlex.split(found[2], comments=True))


ALL = sorted({command for path in [*PAGES, *CONFIGS] for command in commands(path)})


class Parsed(Exception):
    """Raised where the work of a tool would begin."""


def stop(*args: object, **kwargs: object) -> None:
    raise Parsed


def test_commands_are_found():
    assert len(ALL) > 30
    assert {script for script, *_ in ALL} >= {"tools/lazyconfig_train_net.py", "tools/make_report.py"}


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_command_parses(command, monkeypatch):
    script, *arguments = command
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    if script == "tools/lazyconfig_train_net.py":  # its config and overrides are checked as well
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
