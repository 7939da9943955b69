"""The commands of the documentation, and the rule by which a test runs or only reads each.

Rules (docs/index.md has the table for readers):

    runs     trainer commands of the pages and tools of RUN: with small data and sizes, in one process
    dry run  tools of DRY, with their own `--dry-run`
    loads    other trainer commands: the config loads with the overrides, no process is started
    parses   everything else: only the arguments are read

A placeholder (HOST, PATH, RUN, A.pth) or several machines cannot be run; a config's header is a trainer
command whose twin other tests train.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "projects").rglob("*.md")])
PAGES.append(ROOT / "datasets/README.md")
CONFIGS = sorted(path for folder in ("configs", "projects") for path in (ROOT / folder).rglob("*.py"))
TRAINER = "tools/lazyconfig_train_net.py"
RUN = {
    "datasets/prepare_coral.py",  # verifies the stand-in that is there: its download is 39 MB
    "datasets/prepare_photos.py",
    "datasets/prepare_stereo.py",
    "datasets/prepare_textures.py",
    "tools/diagnose.py",
    "tools/folder2lmdb.py",
    "tools/make_report.py",
    "tools/visualize_views.py",
}
DRY = {"tools/benchmark_transfer.py", "tools/compare_methods.py"}

_COMMAND = re.compile(r"(?:python |torchrun .*?)?((?:tools|datasets)/\w+\.py)\b(.*)")
_INLINE = re.compile(r"`((?:python )?(?:tools|datasets)/\w+\.py [^`]*)`")
_PLACEHOLDER = re.compile(r"(?<![\w.-])(?:[A-Z_]{3,}|[AB]\.pth)(?![\w.-])")

Command = tuple[str, ...]  # script, argument, ...


def text_of(path: Path) -> str:
    """A page, or the docstring of a config, with continued lines joined."""
    text = path.read_text()
    if path.suffix == ".py":
        text = (ast.get_docstring(ast.parse(text)) or "").replace("<this>", str(path.relative_to(ROOT)))
    return re.sub(r"\\\n\s*", "", text)


def commands(path: Path) -> Iterator[Command]:
    """(script, argument, ...) of each Python command; placeholders of a certain type are filled in."""
    lines = text_of(path).splitlines()
    if path.suffix == ".md":
        lines = [line for line in lines if line.startswith("    ")] + _INLINE.findall("\n".join(lines))
    for line in lines:
        line = line.strip().replace("=NUMBER", "=1").replace(" LAYOUT", " detectron2")
        for part in line.split(" && "):
            if found := _COMMAND.match(part):
                yield (found[1], *shlex.split(found[2], comments=True))


def rule(command: Command) -> str:
    """How a command of a page is tested."""
    script, *arguments = command
    if script in DRY:
        return "dry run"
    open_ends = any(_PLACEHOLDER.search(argument) for argument in arguments) or "--num-machines" in arguments
    if script == TRAINER:
        return "loads" if open_ends else "runs"
    return "runs" if script in RUN and not open_ends else "parses"


OF_PAGES = sorted({command for page in PAGES for command in commands(page)})
ALL = sorted({*OF_PAGES, *(command for path in CONFIGS for command in commands(path))})
