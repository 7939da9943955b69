"""The output directory of a run: writable, owned by one process, and not another run's.

Standard library only, so that all this is known before torch is imported and before any model is built.
"""

import fcntl
import json
import logging
import os
import socket
import time
import uuid

from densessl.checkpoint.files import TEMP_SUFFIX, clean_stale, list_checkpoints
from densessl.errors import ConfigError

LOCK = ".densessl.lock"
_held: set[int] = set()


def _drop_locks_in_child() -> None:
    # A forked data-loading worker shares the lock with its parent and would keep it after the parent is
    # killed, so that an immediate --resume were refused.
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_drop_locks_in_child)


class RunDirectory:
    """Owns an output directory while the `with` block runs. Use it on the main process only.

    On entry: the directory is made, tried by writing a file, locked, checked for another run's checkpoints,
    and cleaned of temporary files that a killed process left.

    Args:
        path: `train.output_dir`.
        resume: whether the run continues what is there (`--resume`).

    Raises:
        ConfigError: it cannot be written, another process works in it, or it holds checkpoints and
            `resume` is false.
    """

    def __init__(self, path: str, *, resume: bool):
        self.path = path
        self.resume = resume
        self._descriptor: int | None = None

    def __enter__(self) -> "RunDirectory":
        self.acquire()
        return self

    def __exit__(self, *_) -> None:
        self.release()

    def acquire(self) -> None:
        """Does what entering the `with` block does."""
        check_writable(self.path)
        self._lock()
        try:
            refuse_other_run(self.path, self.resume)
            for name in clean_stale(self.path):
                logging.getLogger(__name__).info("Removed %s, left by an interrupted save", name)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Gives the lock back; without one it does nothing."""
        if self._descriptor is not None:
            _held.discard(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self) -> None:
        path = os.path.join(self.path, LOCK)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _describe_owner(os.pread(descriptor, 4096, 0))
            os.close(descriptor)
            raise ConfigError(
                f"Another process works in {self.path}: {owner}. Wait for it, stop it, or choose another "
                "train.output_dir."
            ) from error
        except OSError as error:
            # Some network filesystems have no locks; training there is possible, the protection is not.
            logging.getLogger(__name__).warning("No lock on %s (%s): start one run there only", path, error)
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        self._descriptor = descriptor
        _held.add(descriptor)


def refuse_other_run(path: str, resume: bool) -> None:
    """Raises ConfigError when the directory holds checkpoints that are not to be resumed."""
    found = list_checkpoints(path)
    if found and not resume:
        iteration, newest = found[-1]
        raise ConfigError(
            f"train.output_dir {path} holds a run's checkpoints (newest {os.path.basename(newest)}, "
            f"after {iteration} steps). Add --resume to continue it, or choose another train.output_dir."
        )


def check_writable(path: str) -> None:
    """Makes the directory if need be and writes, syncs and removes a small file in it.

    Raises:
        ConfigError: the path is no directory, or cannot be made or written.
    """
    probe = os.path.join(path, f"probe-{uuid.uuid4().hex}{TEMP_SUFFIX}")
    try:
        os.makedirs(path, exist_ok=True)
        with open(probe, "wb") as file:
            file.write(b"densessl")
            file.flush()
            os.fsync(file.fileno())
        os.remove(probe)
    except OSError as error:
        raise ConfigError(
            f"train.output_dir {path} cannot be written ({error.strerror}); make it writable, free space, or "
            "choose another."
        ) from error


def _describe_owner(content: bytes) -> str:
    try:
        owner = json.loads(content)
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "its lock file does not say which"
