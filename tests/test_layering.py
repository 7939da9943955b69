"""Imports inside the package go one way, and nothing in it imports configs, tools, projects or tests."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "densessl"
ANYWHERE = {"errors", "utils"}  # know nothing of the rest
# part -> parts it may import, besides itself and ANYWHERE; a part that is not here (visualization) may import
# all of these, and none of these it
ALLOWED = {
    "layers": set(),
    "losses": {"layers"},
    "solver": {"layers"},
    "clustering": {"layers"},
    "data": {"layers"},
    "checkpoint": {"layers"},
    "modeling": {"layers", "losses"},
    "evaluation": {"layers", "clustering", "data", "checkpoint", "config"},
    "engine": {
        "layers",
        "losses",
        "modeling",
        "solver",
        "clustering",
        "data",
        "checkpoint",
        "evaluation",
        "config",
    },
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of the modules that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_one_way(part):
    allowed = ALLOWED[part] | ANYWHERE | {part}
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in FILES
        if part_of(path) == part
        for name in imported(path)
        if name.startswith("densessl.") and name.split(".")[1] not in allowed
    ]
    assert not wrong


def test_the_package_stands_alone():
    outside = ("configs", "tools", "projects", "tests", "datasets")
    wrong = [(path.name, name) for path in FILES for name in imported(path) if name.split(".")[0] in outside]
    assert not wrong
