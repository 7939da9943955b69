"""Writes the table of docs/recipes.md from the configs' headers.

python docs/recipe_table.py             # rewrites the page; tests/test_documentation_site.py says when to
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/recipes.md"
BEGIN, END = "<!-- table: python docs/recipe_table.py -->", "<!-- end of table -->"
TWINS = "quick_schedules"


def recipes() -> Iterator[Path]:
    """Every config that trains or evaluates by itself, twins left out, relative to the repository."""
    for path in sorted([*ROOT.glob("configs/**/*.py"), *ROOT.glob("projects/*/configs/**/*.py")]):
        parts = path.relative_to(ROOT).parts
        plan = parts[-2] == "benchmarks"  # a suite or a list of tasks, which the benchmark tools read
        if not (plan or {"common", "common.py", TWINS} & set(parts)):
            yield path.relative_to(ROOT)


def first_sentence(path: Path) -> str:
    """The first line of a config's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    return text.splitlines()[0].rstrip(".").replace("|", "\\|")


def twin_of(path: Path) -> Path | None:
    """The CPU-sized twin of a recipe; that of LVIS's has the data set before its name, which COCO has too."""
    prefix = "lvis_" if path.parent.name.startswith("LVIS") else ""
    twin = Path("configs") / TWINS / f"{prefix}{path.stem}_quick.py"
    return twin if (ROOT / twin).exists() else None


def table() -> str:
    """The tables as Markdown, one for each folder; those of projects/ first."""
    groups: dict[str, list[Path]] = {}
    for path in recipes():
        groups.setdefault(path.parent.as_posix().removesuffix("/configs"), []).append(path)
    lines = []
    for name in sorted(groups, key=lambda name: (not name.startswith("projects"), name)):
        lines += ["", f"## {name}", "", "| recipe | what | CPU-sized twin |", "|---|---|---|"]
        for path in groups[name]:
            twin = twin_of(path)
            link = f"[twin](../{twin})" if twin else "-"
            lines.append(f"| [{path.stem}](../{path}) | {first_sentence(path)} | {link} |")
    return "\n".join([*lines, ""])


def page_with(text: str, new: str) -> str:
    """The page's text with the part between the two marks replaced."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{new}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    PAGE.write_text(page_with(PAGE.read_text(), table()))
