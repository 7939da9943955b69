"""The site builds without a warning and misses no module, recipe or measured number."""

import ast
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from densessl.config import load_config

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import draw_measured  # noqa: E402 (docs/ is on the path now)
import recipe_table  # noqa: E402

RECIPES = list(recipe_table.recipes())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as mkdocs writes it; `--strict` makes each warning an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_strict_build_has_every_page_and_needs_no_network(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]* src=\"?(https?:)|<link[^>]*stylesheet[^>]* href=\"?(https?:)"
    )
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text()), page


def test_api_reference_has_every_module_and_its_public_names(site):
    pages = {page.stem: page.read_text() for page in (site / "api").glob("*.html")}
    modules = [path for path in (ROOT / "densessl").rglob("*.py") if path.name != "__init__.py"]
    described = 0
    for path in modules:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        page = pages[".".join(name.split(".")[:2])]
        assert f'id="{name}"' in page
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
                described += ast.get_docstring(node) is not None
                assert f'id="{name}.{node.name}"' in page or ast.get_docstring(node) is None
    assert len(modules) > 100
    assert described > 300


def test_recipe_page_links_to_the_recipes_text(site):
    page = unescape((site / "recipes.html").read_text())
    for recipe in RECIPES:
        target = f"source/{recipe.as_posix()}.html"
        assert f'href="{target}"' in page
        assert (site / target).is_file()


def test_recipe_table_is_up_to_date():
    text = recipe_table.PAGE.read_text()
    assert len(RECIPES) > 40
    assert text == recipe_table.page_with(text, recipe_table.table()), "run: python docs/recipe_table.py"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_writes_to_a_folder_of_its_name(recipe):
    """The pages name checkpoints by it, and two recipes never meet in one folder."""
    assert Path(load_config(str(ROOT / recipe)).train.output_dir).name == recipe.stem


def test_figure_shows_the_numbers_of_the_measurements(tmp_path):
    draw_measured.main(str(tmp_path / "again.svg"))
    drawn, committed = (
        re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
        for path in (tmp_path / "again.svg", ROOT / "docs/measured.svg")
    )
    assert drawn == committed, "run: python docs/draw_measured.py docs/measured.svg"
    cells = set(re.findall(r"\| ([^|*]+?) (?=\|)", draw_measured.SOURCE.read_text()))
    numbers = [
        text for text in drawn if re.fullmatch(r"about \d+|\d+ - \d+|\d+\.\d\d|\d+\.\d ± \d+\.\d", text)
    ]
    assert len(numbers) == 13
    assert set(numbers) <= cells


def test_figure_says_when_a_table_is_gone():
    with pytest.raises(ValueError, match="no table that begins with 'nothing'"):
        draw_measured.rows("| start |\n|---|\n", "nothing")


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
    assert (ROOT / "docs/measured.svg").stat().st_size < 100_000
