"""What mkdocs adds to the pages in docs/: linked files of the repository, and the API reference.

The pages are written to be read in the repository, so their links are paths in it. Here README files become
pages of the site, any other linked file or folder a page `source/<path>.md` that shows it, and the links are
turned into those of the site. A link to something that does not exist is left alone, and mkdocs reports it.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
API_NAV = "API reference"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the API pages to the navigation."""
    config.nav.append({API_NAV: [f"api/{name}.md" for name in api_pages()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds README files of the repository, what the pages link to, and the API pages."""
    for readme in [ROOT / "datasets/README.md", *sorted((ROOT / "projects").glob("*/README.md"))]:
        name = readme.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, content=readme.read_text()))
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        for target in linked(*waiting.pop()):
            uri = site_uri(target)
            if uri.startswith("source/") and files.get_file_from_path(uri) is None:
                text = source_page(ROOT / target)
                aside = InclusionLevel.NOT_IN_NAV
                files.append(File.generated(config, uri, content=text, inclusion=aside))
                waiting.append((uri, text))
    for name, modules in api_pages().items():
        text = "\n".join([f"# {name}", "", *(f"::: {module}\n" for module in modules)])
        files.append(File.generated(config, f"api/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to paths of the repository into links to pages of the site."""
    here = page.file.src_uri

    def turn(found: re.Match) -> str:
        target = repository_path(here, found[1])
        if not (ROOT / target).exists():
            return found[1]
        return posixpath.relpath(site_uri(target), posixpath.dirname(here) or ".")

    return LINK.sub(turn, markdown)


def api_pages() -> dict[str, list[str]]:
    """{package of densessl: its modules}, top-level modules for themselves; `__init__` files only import."""
    pages: dict[str, list[str]] = {}
    for path in sorted((ROOT / "densessl").rglob("*.py")):
        if path.name != "__init__.py":
            parts = path.relative_to(ROOT).with_suffix("").parts
            pages.setdefault(".".join(parts[:2]), []).append(".".join(parts))
    return pages


def linked(here: str, text: str) -> list[str]:
    """Paths in the repository that the page `here` links to and that exist."""
    targets = (repository_path(here, link) for link in LINK.findall(text))
    return [target for target in targets if (ROOT / target).exists()]


def repository_path(here: str, link: str) -> str:
    """The path in the repository that a link on the page `here` means."""
    folder = posixpath.dirname(here)
    if here.startswith("source/"):
        folder = folder.removeprefix("source").lstrip("/")
    elif not here.endswith("README.md"):  # a page of docs/
        folder = posixpath.join("docs", folder)
    return posixpath.normpath(posixpath.join(folder, link))


def site_uri(target: str) -> str:
    """Where a path of the repository stands in the site."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return target if target.endswith("README.md") else f"source/{target}.md"


def source_page(path: Path) -> str:
    """A file's text, or the list of a folder's files, as Markdown."""
    title = f"# {path.relative_to(ROOT).as_posix()}\n\n"
    if path.is_dir():
        names = sorted(os.listdir(path))
        inside = [name for name in names if (path / name).is_dir() or name.endswith((".py", ".md", ".sh"))]
        return title + "".join(f"- [{n}]({path.name}/{n})\n" for n in inside if not n.startswith(("_", ".")))
    language = {".py": "python", ".sh": "bash"}.get(path.suffix, "text")
    return f"{title}~~~~{language}\n{path.read_text()}\n~~~~\n"
