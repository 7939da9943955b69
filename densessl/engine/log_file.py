"""The log file of a run on a disk that fills up: left with one line, without a traceback per record."""

import contextlib
import functools
import logging
import sys
from collections.abc import Sequence

_handle_error = logging.Handler.handleError


def guard_log_files(names: Sequence[str]) -> None:
    """Makes the loggers `names` leave their file when it cannot be written; the terminal goes on.

    Args:
        names: loggers set up by detectron2's `setup_logger`, which share one stream per file.
    """
    for name in names:
        for handler in logging.getLogger(name).handlers:
            if getattr(handler, "stream", None) not in (None, sys.stdout, sys.stderr):
                handler.handleError = functools.partial(_leave_file, handler, tuple(names))


def _leave_file(handler: logging.StreamHandler, names: Sequence[str], record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        _handle_error(handler, record)
        return
    stream = handler.stream
    for logger in map(logging.getLogger, names):
        for other in [h for h in logger.handlers if getattr(h, "stream", None) is stream]:
            logger.removeHandler(other)
    with contextlib.suppress(OSError):
        stream.close()  # now, not at exit, where the unwritten rest would fail once more
    print(f"{stream.name} cannot be written any more: {error.strerror}.", file=sys.stderr, flush=True)
