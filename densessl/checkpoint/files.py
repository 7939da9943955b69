"""Checkpoint files on disk: atomic writing, a checksum beside each file, verification, and the pointer.

Needs nothing but the standard library, so a run directory can be checked before torch is imported.

A checkpoint `model_0005000.pth` has a sidecar `model_0005000.pth.json` with its size, sha256 and iteration.
Each file is written under a temporary name in the same directory, synced, renamed, and the directory is
synced; a kill at any moment leaves either the old or the new file under the final name. fvcore writes
the final name directly (`fvcore/common/checkpoint.py`, `Checkpointer.save`): a kill there leaves half a file.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import BinaryIO

from densessl.errors import CheckpointError

POINTER = "last_checkpoint"
FINAL = "model_final.pth"
TEMP_SUFFIX = ".densessl-tmp"
_NUMBERED = re.compile(r"model_(\d{7,})\.pth")
_BLOCK = 1 << 20
RESUME_REMEDY = "make room or choose another train.output_dir, then continue with --resume"


@dataclass(frozen=True)
class Sidecar:
    """What is known about a checkpoint file without opening it.

    Args:
        bytes: size of the file.
        sha256: hex digest of its content.
        iteration: optimiser steps finished when it was written.
    """

    bytes: int
    sha256: str
    iteration: int


def checkpoint_name(iteration: int) -> str:
    """File name of the checkpoint written after `iteration` finished optimiser steps."""
    return f"model_{iteration:07d}.pth"


def sidecar_path(path: str) -> str:
    """Path of the JSON file that holds size and checksum of `path`."""
    return path + ".json"


class _HashingWriter:
    """Binary file that hashes what passes through it and remembers the first OSError.

    torch.save turns an exception of `write` into a RuntimeError about file positions; the remembered error
    is the true reason (disk full, quota, file size limit).
    """

    def __init__(self, file: BinaryIO):
        self.file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        view = memoryview(data)
        self.sha256.update(view)
        self.bytes += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        self.file.flush()


def atomic_write(
    path: str, write: Callable[[BinaryIO], None], remedy: str = RESUME_REMEDY
) -> tuple[int, str]:
    """Calls `write(file)` on a temporary file beside `path`, then renames it to `path`.

    Args:
        path: final name; an existing file is replaced in one step or not at all.
        write: gets a binary file object with `write` and `flush`.
        remedy: what the user should do when it cannot be written.

    Returns:
        (size in bytes, sha256 hex digest) of what was written.

    Raises:
        CheckpointError: the disk is full, the directory vanished or cannot be written; the temporary file
            is removed and whatever stood at `path` is untouched.
    """
    temporary = f"{path}.{os.getpid()}{TEMP_SUFFIX}"
    writer = None
    try:
        with open(temporary, "wb") as file:
            writer = _HashingWriter(file)
            write(writer)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(os.path.dirname(path))
    except BaseException as error:
        _remove_quietly(temporary)
        reason = error if isinstance(error, OSError) else (writer.error if writer else None)
        if reason is None:
            raise
        raise CheckpointError(
            write_failure(f"checkpoint {path}", os.path.dirname(path), reason, remedy)
        ) from error
    return writer.bytes, writer.sha256.hexdigest()


def write_failure(what: str, directory: str, error: OSError, remedy: str = RESUME_REMEDY) -> str:
    """Message for `what` in a run directory that could not be written: reason, free space, remedy."""
    try:
        free = f"{shutil.disk_usage(directory or '.').free:,} bytes are free there"
    except OSError:
        free = "the directory cannot be read any more"
    if error.errno == errno.EFBIG:
        remedy = "raise the file size limit (ulimit -f), then continue with --resume"
    return (
        f"Cannot write {what}: {error.strerror or error} ({free}). "
        f"Checkpoints written before are intact; {remedy}."
    )


def sync_directory(directory: str) -> None:
    """Makes renames inside `directory` durable."""
    descriptor = os.open(directory or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_quietly(path: str) -> None:
    # Cleaning up after a failed write must not hide that failure; the next start cleans what is left.
    try:
        os.remove(path)
    except OSError:
        return


def write_with_sidecar(path: str, write: Callable[[BinaryIO], None], iteration: int) -> Sidecar:
    """Atomic write of `path`, then of its sidecar. A kill between the two leaves a complete file whose
    own zip checksums `verify` can still test."""
    size, digest = atomic_write(path, write)
    sidecar = Sidecar(size, digest, iteration)
    text = json.dumps(asdict(sidecar)).encode()
    atomic_write(sidecar_path(path), lambda file: file.write(text))
    return sidecar


def read_sidecar(path: str) -> Sidecar | None:
    """Sidecar of checkpoint `path`, None when there is none.

    Raises:
        CheckpointError: the sidecar exists but is not valid.
    """
    try:
        with open(sidecar_path(path), encoding="utf-8") as file:
            content = json.load(file)
        return Sidecar(int(content["bytes"]), str(content["sha256"]), int(content["iteration"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Sidecar {sidecar_path(path)} is damaged ({type(error).__name__}: {error}); "
            "restore it from a copy, or delete it to have the checkpoint judged by its own zip checksums."
        ) from error


def file_sha256(path: str) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def verify(path: str) -> None:
    """Checks size and sha256 of a file against its sidecar; without one, what the file can tell itself.

    Raises:
        CheckpointError: the file is missing, empty, shorter than recorded, or differs.
    """
    check_size(path)
    sidecar = read_sidecar(path)
    if sidecar is None:
        check_zip(path)
        return
    digest = file_sha256(path)
    if digest != sidecar.sha256:
        raise CheckpointError(
            f"Checkpoint {path} is damaged: its sha256 is {digest[:16]}..., {sidecar.sha256[:16]}... was "
            "written. Use another checkpoint or restore this one from a copy."
        )


def check_size(path: str) -> None:
    """The cheap half of `verify`: the file exists and has the recorded size."""
    if not os.path.isfile(path):
        raise CheckpointError(f"Checkpoint {path} does not exist; check the path.")
    size = os.path.getsize(path)
    sidecar = read_sidecar(path)
    expected = "" if sidecar is None else f" of {sidecar.bytes:,} bytes"
    if size == 0 or (sidecar is not None and size != sidecar.bytes):
        raise CheckpointError(
            f"Checkpoint {path} is damaged: {size:,}{expected or ' bytes'}. "
            "Use another checkpoint or restore this one from a copy."
        )


def check_zip(path: str) -> None:
    """Tests the zip directory and the CRC of every member of a torch file; other formats pass unseen.

    Raises:
        CheckpointError: the zip directory is missing (truncated file) or a CRC differs.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise CheckpointError(
            f"Checkpoint {path} is damaged: its end is missing after {os.path.getsize(path):,} bytes "
            f"({error}). Use another checkpoint or restore this one from a copy."
        ) from error
    if broken:
        raise CheckpointError(
            f"Checkpoint {path} is damaged: the checksum of its part {broken} differs. "
            "Use another checkpoint or restore this one from a copy."
        )


def list_checkpoints(directory: str) -> list[tuple[int, str]]:
    """(iteration, path) of every numbered checkpoint in `directory`, oldest first; temporaries excluded.
    `model_final.pth`, a second name of the last one, is listed only when it stands alone."""
    if not os.path.isdir(directory):
        return []
    found = []
    for name in os.listdir(directory):
        match = _NUMBERED.fullmatch(name)
        if match:
            found.append((int(match.group(1)), os.path.join(directory, name)))
    final = os.path.join(directory, FINAL)
    if not found and os.path.isfile(final):
        sidecar = read_sidecar(final)
        found.append((sidecar.iteration if sidecar else 0, final))
    return sorted(found)


def clean_stale(directory: str) -> list[str]:
    """Removes temporaries that a killed process left, and sidecars whose checkpoint is gone.

    Call only while holding the directory's lock. Returns the names removed.
    """
    removed = []
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        orphan = name.endswith(".pth.json") and not os.path.lexists(path.removesuffix(".json"))
        if name.endswith(TEMP_SUFFIX) or orphan:
            os.remove(path)
            removed.append(name)
    return removed


def write_pointer(directory: str, name: str) -> None:
    """Points `last_checkpoint` at the file `name` of the same directory, atomically."""
    atomic_write(os.path.join(directory, POINTER), lambda file: file.write(name.encode()))


def read_pointer(directory: str) -> str | None:
    """Path that `last_checkpoint` names, None without a pointer. fvcore joins its content unchecked.

    Raises:
        CheckpointError: it names anything but a plain file name in `directory`, or leads outside by a link.
    """
    pointer = os.path.join(directory, POINTER)
    if not os.path.lexists(pointer):
        return None
    require_inside(directory, pointer)
    with open(pointer, "rb") as file:
        content = file.read(4096)
    name = content.decode("utf-8", "replace").strip()
    if not name or name != os.path.basename(name) or name in (os.curdir, os.pardir) or "\0" in name:
        raise CheckpointError(
            f"{pointer} must hold the name of a file in the same directory, not {name[:100]!r}; "
            "delete it, and the newest valid checkpoint of the directory is used."
        )
    path = os.path.join(directory, name)
    require_inside(directory, path)
    return path


def require_inside(directory: str, path: str) -> None:
    """Refuses a path whose links lead out of `directory`."""
    root = os.path.realpath(directory)
    target = os.path.realpath(path)
    if os.path.commonpath([root, target]) != root:
        raise CheckpointError(
            f"{path} is a link that leads out of the run directory, to {target}; "
            "replace it by the file itself, or name that file in train.init_checkpoint."
        )


def newest_valid(directory: str) -> tuple[str, list[str]]:
    """The newest checkpoint of a run directory whose checksum agrees, and the damaged ones that were newer.

    A kill between writing a file and moving the pointer leaves the pointer on the file before; both are
    valid, and the newer one is taken.

    Returns:
        (path, paths of damaged files); ("", []) for a directory without checkpoints.

    Raises:
        CheckpointError: `last_checkpoint` or a checkpoint leads outside the directory, or none is valid.
    """
    logger = logging.getLogger(__name__)
    pointed = read_pointer(directory)
    candidates = [path for _, path in reversed(list_checkpoints(directory))]
    if pointed and pointed not in candidates and os.path.isfile(pointed):
        candidates.append(pointed)
    damaged, reasons = [], []
    for path in candidates:
        require_inside(directory, path)
        try:
            verify(path)
        except CheckpointError as error:
            logger.warning("%s Trying the one before it.", error)
            damaged.append(path)
            reasons.append(str(error))
            continue
        if path != pointed:
            logger.warning("%s names %s; %s is used", POINTER, pointed or "nothing", path)
        return path, damaged
    if pointed and not os.path.isfile(pointed):
        reasons.append(f"{POINTER} names {pointed}, which does not exist.")
    if reasons:
        raise CheckpointError(
            f"No valid checkpoint in {directory}. {' '.join(reasons)} "
            "Start again in another train.output_dir."
        )
    return "", []


def link_final(path: str) -> str:
    """Gives a checkpoint and its sidecar the second name `model_final.pth`, without writing it twice.

    A hard link where the filesystem has them, else a relative symbolic link. Returns the new path.
    """
    final = os.path.join(os.path.dirname(path), FINAL)
    if os.path.isfile(final) and not os.path.isfile(path):
        return final  # all that is left of the run
    for source, target in ((path, final), (sidecar_path(path), sidecar_path(final))):
        if not os.path.isfile(source):  # a kill came before the sidecar
            _remove_quietly(target)
            continue
        if os.path.isfile(target) and os.path.samefile(source, target):
            continue  # rename(2) of one name of a file to the other does nothing: the temporary would stay
        temporary = f"{target}.{os.getpid()}{TEMP_SUFFIX}"
        try:
            os.link(source, temporary)
        except OSError:
            os.symlink(os.path.basename(source), temporary)
        os.replace(temporary, target)
    sync_directory(os.path.dirname(path))
    return final


def remove_checkpoint(path: str) -> None:
    """Deletes a checkpoint, then its sidecar. Raises OSError when that fails."""
    os.remove(path)
    if os.path.lexists(sidecar_path(path)):
        os.remove(sidecar_path(path))
