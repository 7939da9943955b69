"""Imports go one way (the order of the parts is in LAYERS); reads the source, imports nothing."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = {"errors", "utils", "requirements"}  # used by all
# part -> parts that it may import, beside itself and BASE
LAYERS = {
    "layers": set(),
    "losses": {"layers"},
    "solver": set(),
    "config": set(),
    "clustering": {"layers"},
    "checkpoint": {"layers"},
    "data": {"layers"},
    "modeling": {"layers", "losses"},
    "evaluation": {"clustering", "data", "layers"},
    "engine": {"checkpoint", "clustering", "config", "data", "layers", "losses", "modeling"},
    "visualization": {
        "checkpoint",
        "clustering",
        "config",
        "data",
        "evaluation",
        "layers",
        "losses",
        "modeling",
    },
    "diagnostics": {"checkpoint", "clustering", "config", "data", "engine", "evaluation", "layers", "losses"}
    | {"modeling", "visualization"},
    "benchmark": {"checkpoint", "config", "data", "engine", "visualization"},
}


def imported_modules(path: Path) -> list[str]:
    """Dotted names of all modules that a file imports, at any depth."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def part_of(module: str) -> str | None:
    """ "densessl.data.build" -> "data"; None for other packages and for `densessl` itself."""
    names = module.split(".")
    return names[1] if names[0] == "densessl" and len(names) > 1 else None


PARTS = sorted(path.parent.name for path in (ROOT / "densessl").glob("*/__init__.py"))


@pytest.mark.parametrize("part", [name for name in PARTS if name not in BASE])
def test_a_part_imports_only_what_lies_below(part):
    allowed = LAYERS[part] | {part} | BASE
    wrong = {
        (str(path.relative_to(ROOT)), module)
        for path in (ROOT / "densessl" / part).rglob("*.py")
        for module in imported_modules(path)
        if part_of(module) not in {None, *allowed}
    }
    assert not wrong


def test_the_library_imports_no_configs_tools_projects_or_tests():
    wrong = {
        (str(path.relative_to(ROOT)), module)
        for path in (ROOT / "densessl").rglob("*.py")
        for module in imported_modules(path)
        if module.split(".")[0] in {"configs", "tools", "projects", "tests"}
        or module == "detectron2.model_zoo"
    }
    assert not wrong
