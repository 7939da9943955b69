"""One run of tools/convert_checkpoint.py: read, recognise, plan, write, prove."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace

from densessl.checkpoint.convert import Conversion, plan_conversion, report
from densessl.checkpoint.layouts import BY_NAME
from densessl.checkpoint.locate import resolve_weights_path
from densessl.checkpoint.reading import read_weights
from densessl.checkpoint.recognise import Weights, recognise
from densessl.checkpoint.writing import check_target, write_weights
from densessl.errors import CheckpointError, ConfigError


def convert_file(
    source: str,
    target: str,
    to: str,
    layout: str | None = None,
    model: str = "",
    verify: str | None = None,
    say: Callable[[str], None] = print,
) -> Conversion:
    """Converts one weight file; nothing is left at `target` when it fails, or what stood there before.

    Args:
        source: path, run directory or address of the weights.
        target: file to write; its ending decides the format.
        to: name of the layout to write.
        layout: name of the layout of the source; None to recognise it.
        model: name of the source model in its library; timm's names also tell the pixel statistics.
        verify: photograph to compare features on, "" for scikit-image's; None not to compare.
        say: gets each part of the report as it is known.

    Raises:
        ConfigError: `model` is unknown, or a library that `verify` needs is not installed.
        CheckpointError: the source cannot be read or converted without loss, or the target not written.
    """
    source = resolve_weights_path(source, "IN")
    check_target(source, target, BY_NAME[to])
    weights = recognise(read_weights(source, mmap=True), source, layout)
    if model and weights.layout.library == "timm":
        weights = _with_timm_statistics(weights, model)
    conversion = plan_conversion(weights, BY_NAME[to], source)
    weights.require_finite(source)
    say(report(conversion))
    # beside the target, so that the last step is a rename
    with _folder_beside(target) as folder:
        staged = os.path.join(folder, os.path.basename(target))
        size = write_weights(staged, BY_NAME[to], conversion.values, conversion.metadata)
        if verify is not None:
            # Imported here: only a proof needs models.
            from densessl.checkpoint.verification import verify_conversion

            say(str(verify_conversion(weights, staged, verify, model)))
        os.replace(staged, target)
    say(f"wrote {target} ({size:,} bytes)")
    return conversion


def _folder_beside(target: str) -> tempfile.TemporaryDirectory:
    try:
        return tempfile.TemporaryDirectory(prefix=".densessl-", dir=os.path.dirname(target) or ".")
    except OSError as error:
        raise CheckpointError(f"Cannot write beside {target}: {error}; choose another OUT.") from error


def _with_timm_statistics(weights: Weights, model: str) -> Weights:
    """Pixel statistics of one of timm's pretrained models; they differ between recipes of one network."""
    try:
        import timm
    except ImportError as error:
        raise ConfigError("--model asks timm for its statistics: install densessl[convert].") from error
    config = timm.models.get_pretrained_cfg(model)
    if config is None:
        raise ConfigError(f"--model {model}: timm {timm.__version__} has no such pretrained model.")
    values = {
        f"pixel_{key}": [round(255 * value, 4) for value in getattr(config, key)] for key in ("mean", "std")
    }
    return replace(
        weights, conventions={**weights.conventions, **values}, stated=f"timm's settings of {model}"
    )
