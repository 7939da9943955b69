"""Loggers as a run leaves them.

detectron2's `setup_logger` takes its loggers off the root. pytest's caplog looks for such loggers when a test
begins, so the first run in a process would escape it, and which one is first depends on the order.
"""

import logging

for name in ("fvcore", "detectron2", "densessl"):
    logging.getLogger(name).propagate = False
