"""Turns what parsers say of damaged annotations into one message that names the data set."""

import functools
from collections.abc import Callable
from xml.etree.ElementTree import ParseError

from detectron2.data import DatasetCatalog, MetadataCatalog

from densessl.data.datasets.sample_writer import dataset_root
from densessl.errors import DataError

# What json, pycocotools and detectron2's loaders raise for cut-off or foreign files; JSONDecodeError and
# UnicodeDecodeError are ValueErrors.
_PARSER_ERRORS = (ValueError, KeyError, TypeError, IndexError, AssertionError, ParseError, OSError)


def guard_annotations(name: str) -> None:
    """Makes loading the registered data set `name` raise a DataError where its annotations are damaged."""
    load = DatasetCatalog[name]
    if not isinstance(load, _Guarded):
        DatasetCatalog[name] = _Guarded(name, load)


class _Guarded:
    def __init__(self, name: str, load: Callable[[], list[dict]]) -> None:
        functools.update_wrapper(self, load)
        self.name, self.load = name, load

    def __call__(self) -> list[dict]:
        try:
            return self.load()
        except _PARSER_ERRORS as error:
            metadata = MetadataCatalog.get(self.name)
            place = getattr(metadata, "json_file", None) or getattr(metadata, "dirname", None)
            raise DataError(
                f"the annotations of data set {self.name!r} ({place or f'below {dataset_root()}'}) cannot be "
                f"read: {type(error).__name__}: {error}. The file is damaged or of another format: copy it "
                "again, or remove and rebuild the data set."
            ) from error
