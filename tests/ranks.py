"""Two ranks without the seconds that starting an interpreter takes: forked from the test's own process.

What is about the launcher itself, its arguments, messages and exit statuses, starts the command line instead.
"""

import multiprocessing
import os
import pickle
import runpy
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm


def run(function: Callable, *args: Any, world_size: int = 2, timeout: float = 200) -> list:
    """Calls `function(*args)` in the processes of one gloo group; returns what each returned, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        codes, outputs = _fork(_in_group, (function, args, world_size, folder), world_size, timeout)
        assert not any(codes), f"exit statuses {codes}\n" + "\n".join(outputs)
        return [pickle.loads(Path(folder, f"{rank}.pkl").read_bytes()) for rank in range(world_size)]


def run_ranks(
    script: str | Path, arguments: Sequence[str], world_size: int = 2, timeout: float = 200
) -> tuple[list[int], list[str]]:
    """Runs a script in processes with torchrun's variables; returns their exit statuses and outputs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return _fork(_as_program, (str(script), list(arguments), world_size, port), world_size, timeout)


def _in_group(rank: int, function: Callable, args: tuple, world_size: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    comm.create_local_process_group(world_size)
    Path(folder, f"{rank}.pkl").write_bytes(pickle.dumps(function(*args)))
    dist.barrier()  # no rank leaves while another still talks to it


def _as_program(rank: int, script: str, arguments: list[str], world_size: int, port: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(WORLD_SIZE=str(world_size), LOCAL_WORLD_SIZE=str(world_size))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def _fork(target: Callable, args: tuple, world_size: int, timeout: float) -> tuple[list[int], list[str]]:
    """One rank that fails, or the time limit, ends all."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, f"{rank}.txt") for rank in range(world_size)]
        processes = [
            context.Process(target=_with_output, args=(logs[rank], target, rank, *args))
            for rank in range(world_size)
        ]
        deadline = time.monotonic() + timeout
        try:
            for process in processes:
                process.start()
            running = list(processes)
            while running and time.monotonic() < deadline and not any(p.exitcode for p in processes):
                wait([process.sentinel for process in running], deadline - time.monotonic())
                running = [process for process in running if process.is_alive()]
        finally:
            for process in processes:
                process.kill()
                process.join()
        return [process.exitcode for process in processes], [log.read_text() for log in logs]


def _with_output(log: Path, target: Callable, rank: int, *args: Any) -> None:
    with open(log, "w", buffering=1) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.stdout = sys.stderr = output
        torch.set_num_threads(1)
        try:
            target(rank, *args)
        except Exception:
            sys.excepthook(*sys.exc_info())
            sys.exit(1)
