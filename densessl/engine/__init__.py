"""The trainer: launching, the training loop, hooks, logging.

Nothing is imported until it is asked for, so that `densessl.engine.launch` can parse arguments (and
print `--help`) before torch is loaded.
"""

import importlib

_HOME = {
    "ClusterHook": "densessl.engine.cluster_hook",
    "EMAHook": "densessl.engine.hooks",
    "ParamScheduleHook": "densessl.engine.hooks",
    "Schedule": "densessl.engine.hooks",
    "PreciseBNHook": "densessl.engine.precise_bn",
    "ThroughputHook": "densessl.engine.hooks",
    "CheckpointHook": "densessl.engine.hooks",
    "SignalHook": "densessl.engine.signals",
    "TensorEventStorage": "densessl.engine.events",
    "Trainer": "densessl.engine.train_loop",
    "do_test": "densessl.engine.defaults",
    "do_train": "densessl.engine.defaults",
    "default_argument_parser": "densessl.engine.launch",
    "launch": "densessl.engine.launch",
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
