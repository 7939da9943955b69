"""The toy model and config of tests/engine, for runs of two processes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
