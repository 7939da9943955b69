"""Saving and resuming a training run exactly.

`TrainingCheckpointer` extends fvcore's Checkpointer (`fvcore/common/checkpoint.py`) and changes what is
unsafe there: files are written atomically with a checksum, `last_checkpoint` moves last and is checked when
read, retention survives a resume, random states of all ranks are saved, and a run resumes exactly or is
refused.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from densessl.checkpoint import files
from densessl.checkpoint.compare import (
    config_differences,
    data_differences,
    optimizer_differences,
    shorten,
    weight_differences,
)
from densessl.checkpoint.reading import read_training_checkpoint
from densessl.checkpoint.state import (
    FORMAT,
    check_plain,
    collect_rng_state,
    model_meta,
    plain_config,
    restore_rng_state,
)
from densessl.errors import CheckpointError, ConfigError


class TrainingCheckpointer(Checkpointer):
    """Writes and reads the checkpoints of one run. Every public method is called on every rank.

    Args:
        model: the model, wrapped in DDP or not.
        save_dir: the run directory; its lock is held by the caller (`densessl.engine.run_directory`).
        data: the train loader, or anything with `state() -> dict` of plain values; compared on resume.
        config: the run's config; stored as plain python and compared on resume.
        max_to_keep: how many numbered checkpoints stay, at least 2; None keeps all. Files found after a
            resume count.
        checkpointables: objects with `state_dict` and `load_state_dict`: `optimizer=`, `trainer=`, ...

    Use::

        checkpointer = TrainingCheckpointer(model, cfg.train.output_dir, data=loader, config=cfg,
                                            max_to_keep=2, optimizer=optimizer, trainer=trainer)
        checkpointer.check_saveable()                # before the first step
        start = checkpointer.resume() if args.resume else None      # finished steps, None: nothing there
        ...                                          # build the loader's iterator
        checkpointer.restore_rng()                   # last thing before the first step
        checkpointer.save_step(finished_steps)       # periodically
        checkpointer.save_step(finished_steps, final=True)
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str,
        *,
        data: Any,
        config: Any,
        max_to_keep: int | None = 2,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        if max_to_keep is not None and max_to_keep < 2:
            raise ConfigError(
                f"train.checkpointer.max_to_keep is {max_to_keep}; at least 2 checkpoints are kept, so that "
                "one damaged file does not lose the run. Use 2 or more, or null to keep all."
            )
        self.path_manager = PathManager
        self.logger = logging.getLogger(__name__)
        self.data = data
        self.config = plain_config(config)
        self.max_to_keep = max_to_keep
        self._last_iteration: int | None = None
        self._damaged: set[str] = set()
        self._rng: dict[str, Any] | None = None

    # ------------------------------------------------------------------ saving

    def collect(self, iteration: int) -> dict[str, Any]:
        """The checkpoint's content after `iteration` finished steps; gathers random states of all ranks."""
        content = {"model": self.model.state_dict()}
        for key, item in self.checkpointables.items():
            content[key] = item.state_dict()
        content.update(
            iteration=iteration,
            rng=comm.gather(collect_rng_state()),
            data=self.data.state(),
            config=self.config,
            meta=model_meta(self.model, comm.get_world_size()),
        )
        return content

    def check_saveable(self) -> None:
        """Collects once without writing, so that a state that cannot be saved fails before the first step."""
        self._on_main(lambda content: check_plain(content), self.collect(0))

    def save_step(self, iteration: int, final: bool = False) -> str:
        """Saves `model_<iteration>.pth`; a step that was just saved or resumed from is not written again.

        Args:
            iteration: optimiser steps finished, so also the step at which a resumed run starts.
            final: also give the file the name `model_final.pth` (a link, not a second file).

        Returns:
            path of the checkpoint.

        Raises:
            CheckpointError: on every rank, when rank 0 cannot write (disk full, directory gone) or a state
                holds a value that could not be loaded again.
        """
        path = os.path.join(self.save_dir, files.checkpoint_name(iteration))
        if iteration != self._last_iteration:
            self._on_main(lambda content: self._write(path, content), self.collect(iteration))
            self._last_iteration = iteration
        if final:
            self._on_main(files.link_final, path)
        return path

    def save(self, name: str, **kwargs: Any) -> None:
        """Not for training states: fvcore's free file names escape retention and resume; use `save_step`."""
        raise CheckpointError(f"save({name!r}) is not supported; call save_step(iteration) on every rank.")

    def _write(self, path: str, content: dict[str, Any]) -> None:
        check_plain(content)
        self.logger.info("Saving checkpoint to %s", path)
        files.write_with_sidecar(path, lambda file: torch.save(content, file), content["iteration"])
        files.write_pointer(self.save_dir, os.path.basename(path))
        self._damaged.discard(path)
        self._prune(path)

    def _prune(self, newest: str) -> None:
        """Deletes numbered checkpoints beyond `max_to_keep`; damaged ones do not count as kept."""
        if self.max_to_keep is None:
            return
        kept = 0
        for _, path in reversed(files.list_checkpoints(self.save_dir)):
            if kept < self.max_to_keep and (path == newest or self._looks_valid(path)):
                kept += 1
            elif kept >= self.max_to_keep:
                try:
                    files.remove_checkpoint(path)
                except OSError as error:
                    # An old file too many is no reason to stop training.
                    self.logger.warning("Could not delete old checkpoint %s: %s", path, error)

    def _looks_valid(self, path: str) -> bool:
        if path in self._damaged:
            return False
        try:
            files.check_size(path)
        except CheckpointError:
            return False
        return True

    def _on_main(self, function, argument: Any) -> Any:
        """Runs `function(argument)` on rank 0; its result or its failure reaches every rank."""
        result, failure = None, None
        if self.save_to_disk:
            try:
                result = function(argument)
            except Exception as error:
                failure = error
        # Also the barrier: no rank runs ahead of a checkpoint that was not written.
        result, message = comm.all_gather((result, None if failure is None else str(failure)))[0]
        if failure is not None:
            raise failure
        if message is not None:
            raise CheckpointError(message)
        return result

    # ------------------------------------------------------------------ resuming

    def has_checkpoint(self) -> bool:
        """Whether the run directory holds any checkpoint, valid or not."""
        return bool(files.list_checkpoints(self.save_dir)) or bool(files.read_pointer(self.save_dir))

    def get_checkpoint_file(self) -> str:
        """Newest checkpoint of the run directory whose checksum agrees; "" without any checkpoint.

        Raises:
            CheckpointError: `last_checkpoint` leads outside the directory, or no file there is valid.
        """
        path, damaged = files.newest_valid(self.save_dir)
        self._damaged.update(damaged)
        return path

    def resume(self) -> int | None:
        """Loads the newest valid checkpoint of the run directory into model and checkpointables.

        Returns:
            finished steps, to continue from; None when the directory holds no checkpoint.

        Raises:
            CheckpointError: no file is valid, or the run differs from the saved one; nothing was loaded then.
        """
        path = self._on_main(lambda _: self.get_checkpoint_file(), None)
        if not path:
            return None
        content = read_training_checkpoint(path, verified=self.save_to_disk)  # the main process has chosen it
        self._require_same_run(path, content)
        self.model.load_state_dict(content["model"])
        for key, item in self.checkpointables.items():
            item.load_state_dict(content[key])
        self._rng = content["rng"][comm.get_rank()]
        self._last_iteration = content["iteration"]
        self.logger.info("Resumed from %s after %d steps", path, content["iteration"])
        return content["iteration"]

    def restore_rng(self) -> None:
        """Sets this rank's random states as they were when the resumed checkpoint was written.

        Without a resume it does nothing. Call it when the loader's iterator exists: making one draws from
        torch's generator.
        """
        if self._rng is not None:
            restore_rng_state(self._rng)
            self._rng = None

    def _require_same_run(self, path: str, content: Mapping[str, Any]) -> None:
        wanted = {"model", "iteration", "rng", "data", "config", "meta", *self.checkpointables}
        absent = sorted(wanted - content.keys())
        if absent or content["meta"].get("format") != FORMAT:
            raise CheckpointError(
                f"{path} is not a training checkpoint of this project"
                + (f" (no entry {', '.join(absent)})" if absent else "")
                + "; to start from its weights give it as train.init_checkpoint without --resume."
            )
        refused = data_differences(content["data"], self.data.state())
        architecture = type(self.model).__name__
        if content["meta"]["architecture"] != architecture:
            refused.append(f"architecture: {content['meta']['architecture']} -> {architecture}")
        if len(content["rng"]) != comm.get_world_size():
            refused.append(f"world size: {len(content['rng'])} -> {comm.get_world_size()}")
        changed, allowed = config_differences(content["config"], self.config)
        refused += changed + weight_differences(content["model"], self.model.state_dict())
        if "optimizer" in self.checkpointables:
            current = self.checkpointables["optimizer"].state_dict()
            changed, said = optimizer_differences(content["optimizer"], current)
            refused, allowed = refused + changed, allowed + said
        refused += _length_difference(content["iteration"], self.config)
        if refused:
            raise CheckpointError(
                f"Cannot resume from {path}: this is not the run that wrote it. Saved -> now: "
                + "; ".join(refused)
                + ". Restore these settings, or start a new run in another train.output_dir with "
                f"train.init_checkpoint={path} (weights only)."
            )
        if allowed:
            self.logger.warning("Resuming with other settings (saved -> now): %s", shorten(allowed))


def _length_difference(iteration: int, config: Mapping[str, Any]) -> list[str]:
    max_iter = config.get("train", {}).get("max_iter")
    if max_iter is not None and iteration > max_iter:
        return [f"the checkpoint stands after {iteration} steps, beyond train.max_iter {max_iter}"]
    return []
