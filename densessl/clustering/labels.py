"""Cluster labels of a whole data set: one byte per cell, in one file that all processes map into memory.

PiCIE's authors write one pickled int64 file per image and view (utils.py:229-240): 99,258 files and 5.2 GB
per epoch for COCO; here one file of 635 MB, which the operating system may drop from memory at any time.
Letters: V views, M images, h x w cells.
"""

import hashlib
import os
import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from densessl.errors import CheckpointError, ConfigError, DataError

_NAME = "cluster_labels_{epoch:04d}.npy"
_PATTERN = re.compile(r"cluster_labels_(\d{4,})\.npy")
_PARTIAL = ".partial"


class LabelFile:
    """Labels of one epoch, `<folder>/cluster_labels_<epoch>.npy`; a file under that name is complete.

    Args:
        folder: the run directory, the same for all processes.
        epoch: counted from 0.
    """

    def __init__(self, folder: str, epoch: int) -> None:
        self.path = os.path.join(folder, _NAME.format(epoch=epoch))
        self._array: np.ndarray | None = None

    def create(self, views: int, images: int, size: tuple[int, int]) -> None:
        """Makes an empty file under a temporary name; by one process, before the others `open_partial`.

        Raises:
            DataError: there is no room. Its blocks are reserved, since a full disk would later end the
                process by a signal.
        """
        path, shape = self.path + _PARTIAL, (views, images, *size)
        try:
            np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        except OSError as error:
            raise DataError(
                f"cannot write the cluster labels {path} ({int(np.prod(shape)) / 1e6:.1f} MB): "
                f"{error.strerror}. Make room or choose another train.output_dir, then go on with --resume."
            ) from error

    def open_partial(self) -> None:
        """Maps the temporary file for writing.

        Raises:
            ConfigError: this process does not see it.
        """
        try:
            self._array = np.lib.format.open_memmap(self.path + _PARTIAL, mode="r+")
        except OSError as error:
            raise ConfigError(
                f"this process does not see {self.path + _PARTIAL}, which the main process made "
                f"({error.strerror}): train.output_dir must be a folder that all machines share."
            ) from error

    def write(self, view: int, indices: Sequence[int], labels: Tensor) -> None:
        """Stores (N, h, w) labels of the images `indices`."""
        self._array[view, list(indices)] = labels.to(torch.uint8).cpu().numpy()

    def flush(self) -> None:
        """Brings what this process wrote to the disk."""
        self._array.flush()

    def publish(self) -> None:
        """Gives the file its name; by one process, after all have flushed."""
        os.replace(self.path + _PARTIAL, self.path)

    def open(self, digest: str | None = None) -> None:
        """Maps the complete file for reading.

        Raises:
            CheckpointError: it is not there, or not the one with this digest.
        """
        try:
            self._array = np.load(self.path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.path} cannot be read ({error}), and training stopped within the epoch that its "
                "labels belong to. Bring it back beside the checkpoints, or resume from a checkpoint at the "
                "end of an epoch."
            ) from error
        if digest is not None and self.digest() != digest:
            raise CheckpointError(
                f"{self.path} does not hold the labels that the checkpoint was trained with. Bring the right "
                "file back, or resume from a checkpoint at the end of an epoch."
            )

    def read(self, view: int, indices: Sequence[int]) -> Tensor:
        """(N, h, w) uint8 labels of the images `indices`."""
        return torch.from_numpy(self._array[view, list(indices)])

    def digest(self) -> str:
        """sha256 of the labels."""
        content = hashlib.sha256()
        for view in self._array:
            content.update(np.ascontiguousarray(view))
        return content.hexdigest()


def remove_other_labels(folder: str, keep: set[int]) -> None:
    """Deletes the label files of epochs not in `keep`, and unfinished ones."""
    for name in os.listdir(folder):
        match = _PATTERN.fullmatch(name.removesuffix(_PARTIAL))
        if match and (name.endswith(_PARTIAL) or int(match.group(1)) not in keep):
            os.remove(os.path.join(folder, name))
