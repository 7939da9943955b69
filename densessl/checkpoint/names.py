"""Renames tensors by tables of templates, read forwards and backwards.

A table is an ordered list of pairs (name in a file, name here); the first template that fits decides. "Here"
means detectron2's names of the trunk: `stem.conv1.weight`, `res2.0.conv1.norm.bias`.

    ("layer{stage}.{block}.bn{conv}.{leaf}", "res{stage+1}.{block}.conv{conv}.norm.{leaf}")

A field stands for the same value on both sides. Plain fields are whole numbers, and may be printed with an
offset (`{stage+1}`: torchvision's layer1 is detectron2's res2). `{leaf}` is the last part of a name,
`{trunk}` any name but that of a classifier, a projection head (`stem.fc`) or a feature pyramid.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache

Table = Sequence[tuple[str, str]]

LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_FIELD = re.compile(r"\{(\w+)([+-]\d+)?\}")
_KINDS = {"leaf": "|".join(LEAVES), "trunk": r"(?!linear\.|fpn_|stem\.fc\.).+"}


@cache
def _pattern(template: str) -> tuple[re.Pattern, dict[str, int]]:
    """(regular expression with one group per field, {field: offset})."""
    text, offsets, position = "", {}, 0
    for field in _FIELD.finditer(template):
        name, offset = field.group(1), int(field.group(2) or 0)
        text += re.escape(template[position : field.start()])
        text += f"(?P={name})" if name in offsets else f"(?P<{name}>{_KINDS.get(name, r'[0-9]+')})"
        offsets[name] = offset
        position = field.end()
    return re.compile(text + re.escape(template[position:])), offsets


def _match(template: str, name: str) -> dict[str, str | int] | None:
    pattern, offsets = _pattern(template)
    match = pattern.fullmatch(name)
    if match is None:
        return None
    return {
        field: value if field in _KINDS else int(value) - offsets[field]
        for field, value in match.groupdict().items()
    }


def _fill(template: str, values: Mapping[str, str | int]) -> str:
    def one(field: re.Match) -> str:
        value = values[field.group(1)]
        return str(value + int(field.group(2) or 0) if isinstance(value, int) else value)

    return _FIELD.sub(one, template)


def rename(name: str, table: Table) -> str | None:
    """Name here of a tensor called `name` in a file; None when no template fits."""
    for theirs, ours in table:
        values = _match(theirs, name)
        if values is not None:
            return _fill(ours, values)
    return None


def rename_back(name: str, table: Table) -> str | None:
    """The inverse of `rename`."""
    return rename(name, [(ours, theirs) for theirs, ours in table])
