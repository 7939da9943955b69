"""What happens to images that cannot be read: counted, listed once, and too many of them stop the run."""

import fcntl
import json
import logging
import os

import torch

from densessl.errors import ConfigError, DataError

POLICIES = ("raise", "skip", "replace")
FILE_NAME = "bad_images.jsonl"
MIN_SEEN = 200  # below this many images a fraction says little

_SEEN, _BAD = 1, 2
logger = logging.getLogger(__name__)


class BadImageLog:
    """State of each image (not seen, read, unreadable), shared by the workers of one rank.

    One byte per image in shared memory: each worker writes single bytes, so no lock is needed. Counts
    start anew with each run; the file is appended to.
    """

    def __init__(self, num_images: int, policy: str = "raise", max_fraction: float = 0.05):
        """
        Args:
            num_images: N.
            policy: "raise": the first unreadable image stops the run. "replace": another image, drawn from
                (seed, epoch, index), takes its place. "skip": the next readable image of the data set takes
                its place. Both keep the batch size, so that steps, schedules and resume stay exact.
            max_fraction: more unreadable images than this fraction of those seen by this rank (of 200, or
                all where there are fewer, at the beginning) stop the run.
        """
        if policy not in POLICIES:
            raise ConfigError(f"bad_image = {policy!r} is not one of {', '.join(POLICIES)}")
        if not 0 <= max_fraction <= 1:
            raise ConfigError(f"max_bad_fraction = {max_fraction} must lie in [0, 1]")
        self.policy, self.max_fraction = policy, max_fraction
        self.path: str | None = None
        self._state = torch.zeros(num_images, dtype=torch.uint8).share_memory_()

    @property
    def num_bad(self) -> int:
        """Distinct unreadable images met by this rank so far."""
        return int((self._state == _BAD).sum())

    def good(self, index: int) -> None:
        """Notes that image `index` was read."""
        self._state[index] = _SEEN

    def bad(self, index: int, entry: dict[str, object]) -> None:
        """Notes and lists that image `index` could not be read.

        Args:
            index: of the image.
            entry: what goes into the file: file_name, reason, ... (JSON types).

        Raises:
            DataError: the share of unreadable images is above the limit.
        """
        if int(self._state[index]) == _BAD:
            return  # listed when first met
        self._state[index] = _BAD
        logger.warning("Unreadable image, policy %r: %s", self.policy, entry["reason"])
        if self.path is not None:
            append_line(self.path, json.dumps(entry))
        self._check_fraction(str(entry["reason"]))

    def _check_fraction(self, reason: str) -> None:
        bad, seen = self.num_bad, int((self._state != 0).sum())
        base = max(seen, min(len(self._state), MIN_SEEN))
        if bad > self.max_fraction * base:
            listed = f" (listed in {self.path})" if self.path else ""
            raise DataError(
                f"{bad} of {seen} images seen cannot be read{listed}, more than max_bad_fraction = "
                f"{self.max_fraction:g}; the last one: {reason}. Mend the data set or raise the limit "
                "(dataloader.train.max_bad_fraction)"
            )


def append_line(path: str, line: str) -> None:
    """Appends one line to a file that several processes append to.

    O_APPEND places each write at the end; the lock covers file systems where that is not atomic (NFS).
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        data = (line + "\n").encode()
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
