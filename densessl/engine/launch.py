"""Command line and processes: torchrun or detectron2's launcher, CUDA/nccl or CPU/gloo, exit statuses.

Importing this module does not import torch, so that `--help` and usage errors are immediate.

Exit statuses: 0 done, 2 ConfigError or usage, 3 DataError, 4 CheckpointError, 5 non-finite loss,
143 stopped by SIGTERM and saved, 130 stopped by SIGINT and saved, 140 stopped by SIGUSR2 and saved,
1 anything else. torchrun reports the status of each worker but itself always leaves with 1.
"""

import argparse
import hashlib
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from densessl.errors import ConfigError, DensesslError, LostProcessError

_LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
_SECONDS_FOR_THE_FIRST = 3
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def default_argument_parser() -> argparse.ArgumentParser:
    """Returns a parser with detectron2's options, `--dist-url auto` and `key=value` overrides."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trains or evaluates what a LazyConfig file describes.",
        epilog="examples:\n"
        "  %(prog)s --config-file CONFIG --num-gpus 8\n"
        "  %(prog)s --config-file CONFIG --resume train.max_iter=20000\n"
        "  torchrun --nproc-per-node 8 %(prog)s --config-file CONFIG\n"
        "several machines:\n"
        "  %(prog)s --config-file CONFIG --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT",
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="LazyConfig .py file, or a config.yaml"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in train.output_dir exactly")
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate train.init_checkpoint, do not train"
    )
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="processes per machine, CPU or GPU (default 1)"
    )
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="from 0")
    parser.add_argument(
        "--dist-url", default="auto", help='"auto" finds a free port (one machine); else tcp://HOST:PORT'
    )
    # parsed with parse_intermixed_args: options and overrides come in any order
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides, e.g. optimizer.lr=0.1")
    return parser


def run_main(main: Callable[[], None], said: Path | None = None, *, whole_job: bool = False) -> None:
    """Calls `main` and turns the errors a user can act on into one message and their exit status.

    Args:
        main: what to do.
        said: folder in which the processes of one machine note what they have said: an error that all of
            them meet is printed by the first.
        whole_job: those processes are all of the job, so one of them or the launcher says why one stopped.
    """
    quiet_known_warnings()
    try:
        main()
    except DensesslError as error:
        rank = os.environ.get("RANK", "0")
        prefix = f"[rank {rank}] " if rank != "0" else ""
        text = f"{type(error).__name__}: {clean_message(error)}"
        if not (prefix and getattr(error, "same_on_all_ranks", False)) and _is_news(
            error, text, said, whole_job
        ):
            print(prefix + text, file=sys.stderr, flush=True)
        _leave(error.exit_code)


def _leave(status: int) -> None:
    """Ends this process with an exit status; a rank of a distributed job at once.

    Its process group stays open, since other ranks may be inside a collective, and the interpreter's own
    ending may abort on the group's threads, which would replace the status by 134.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        sys.exit(status)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _is_news(error: DensesslError, text: str, said: Path | None, whole_job: bool) -> bool:
    if said is None:
        return True
    if isinstance(error, LostProcessError) and whole_job:
        return False
    try:
        (said / hashlib.sha256(text.encode()).hexdigest()).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def quiet_known_warnings() -> None:
    """Silences what PyTorch says of calls in detectron2 and fvcore, which no user of this project can mend.

    Also the hint that there are more loader workers than cores: the log names the workers and, at every log
    step, the share of time spent waiting for them.
    """
    for message, category, module in (
        (r"`torch\.jit\.script`", FutureWarning, ""),
        (r"torch\.meshgrid: in an upcoming release", UserWarning, r"torch\.functional"),
        (r"The given NumPy array is not writable", UserWarning, r"fvcore\.transforms\.transform"),
        (r"This DataLoader will create \d+ worker processes", UserWarning, r"torch\.utils\.data\.dataloader"),
    ):
        warnings.filterwarnings("ignore", message=message, category=category, module=module)
    logging.getLogger("torch.fx._symbolic_trace").addFilter(_is_not_fx_hint)


def _is_not_fx_hint(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("is_fx_tracing will return true")


def clean_message(error: DensesslError) -> str:
    """Returns the error's own words: a DataLoader worker wraps them in the text of its traceback."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return re.split(rf"\n(?:\w+\.)*{type(error).__name__}: ", text)[-1].strip()


def launch(main: Callable, args: argparse.Namespace, device: str) -> None:
    """Runs `main(args)` in every process of the job.

    Under torchrun (RANK and WORLD_SIZE set) this process is one of them; else detectron2's launcher
    starts `--num-gpus` processes.

    Args:
        main: importable function of one argument.
        args: of `default_argument_parser`.
        device: "auto", "cuda" or "cpu" (`train.device`); chooses nccl or gloo.

    Raises:
        ConfigError: a GPU is asked for and there are fewer, the port is taken, the environment or the
            options are incomplete.
    """
    check_arguments(args)
    if device == "cpu":
        # before torch looks: detectron2's launcher takes nccl whenever it sees a GPU, whatever the run asks
        # for, and loaders would pin memory
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    device = resolve_device(device)
    torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    if torchrun:
        missing = [name for name in _TORCHRUN if name not in os.environ]
        if missing:
            raise ConfigError(
                f"RANK and WORLD_SIZE are set but {', '.join(missing)} is not: start the job with torchrun, "
                "which sets all of them, or unset RANK and WORLD_SIZE."
            )
    check_gpu_count(device, int(os.environ["LOCAL_WORLD_SIZE"]) if torchrun else args.num_gpus)
    if torchrun:
        _run_in_torchrun(main, args, device)
        return
    if args.num_gpus * args.num_machines == 1:
        main(args)
        return
    _check_port(args)
    _spawn(main, args)


def check_arguments(args: argparse.Namespace) -> None:
    """Raises ConfigError for option values that cannot work together."""
    for name, least in (("num_gpus", 1), ("num_machines", 1), ("machine_rank", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(args, name)} is below {least}.")
    if args.machine_rank >= args.num_machines:
        raise ConfigError(
            f"--machine-rank {args.machine_rank} must be below --num-machines {args.num_machines}; "
            "machines are numbered from 0."
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ConfigError(
            "With --num-machines above 1 give --dist-url tcp://HOST:PORT, HOST being machine 0."
        )
    if args.eval_only and args.resume:
        raise ConfigError("--eval-only evaluates train.init_checkpoint; --resume trains. Give one of them.")


def resolve_device(device: str) -> str:
    """Returns "cuda" or "cpu" for `train.device`.

    Raises:
        ConfigError: the device is unknown, or "cuda" is asked for and no GPU can be used.
    """
    import torch

    if device not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"train.device={device!r} is unknown; use auto, cuda or cpu.")
    available = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if available else "cpu"
    if device == "cuda" and not available:
        raise ConfigError(
            "train.device=cuda, but no GPU can be used (CUDA_VISIBLE_DEVICES="
            f"{os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')!r}, PyTorch built for CUDA "
            f"{torch.version.cuda}). Set train.device=cpu or auto."
        )
    return device


def check_gpu_count(device: str, processes: int) -> None:
    """Raises ConfigError when this machine has fewer GPUs than processes that need one."""
    import torch

    if device == "cuda" and processes > torch.cuda.device_count():
        raise ConfigError(
            f"{processes} processes are asked for (--num-gpus), but this machine has "
            f"{torch.cuda.device_count()} GPU(s); lower it, or use train.device=cpu."
        )


def _check_port(args: argparse.Namespace) -> None:
    """Binds the given port for a moment: a taken one would make the workers wait for half an hour."""
    if args.dist_url == "auto" or args.machine_rank > 0:
        return
    match = re.fullmatch(r"tcp://(\[?[^\]]+\]?):(\d+)", args.dist_url)
    if match is None:
        raise ConfigError(f"--dist-url {args.dist_url!r} is not of the form tcp://HOST:PORT.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(match.group(2))))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--dist-url {args.dist_url}: port {match.group(2)} cannot be used here ({error}). "
                "Another job may hold it: choose another port, or --dist-url auto."
            ) from error


def _run_in_torchrun(main: Callable, args: argparse.Namespace, device: str) -> None:
    import torch
    import torch.distributed as dist
    from detectron2.utils import comm

    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    except (dist.DistNetworkError, ValueError) as error:
        raise ConfigError(
            f"The processes cannot meet at MASTER_ADDR={os.environ['MASTER_ADDR']} "
            f"MASTER_PORT={os.environ['MASTER_PORT']}: {error}"
        ) from error
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    _main_and_leave(main, args)


def _main_and_leave(main: Callable, args: argparse.Namespace) -> None:
    """Runs `main`, then leaves the process group; runs in each process of a distributed job."""
    import torch.distributed as dist

    os.environ["RANK"] = str(dist.get_rank())  # for messages; no process is started from here
    try:
        main(args)
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        # The other process ends first, so that its exit status becomes that of the job.
        time.sleep(_SECONDS_FOR_THE_FIRST)
        raise LostProcessError(
            "Another process of this run has stopped, and this one cannot go on. Its own message says why. "
            "Without one it was killed, when memory ran out for instance. Continue with --resume."
        ) from error
    # Not after an error: the other ranks may be inside a collective, and leaving would wait for them.
    dist.destroy_process_group()


def is_lost_connection(error: BaseException) -> bool:
    """Whether gloo reports that another process of the job is gone."""
    text = str(error)
    return "gloo" in text and any(sign in text for sign in _LOST_CONNECTION)


def _worker(main: Callable, args: argparse.Namespace, said: Path) -> None:
    run_main(lambda: _main_and_leave(main, args), said, whole_job=args.num_machines == 1)


def _spawn(main: Callable, args: argparse.Namespace) -> None:
    """detectron2's launcher, with signals handed to the workers and their exit status handed back."""
    import multiprocessing

    from detectron2.engine import launch as detectron2_launch
    from torch.multiprocessing import ProcessExitedException

    received: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        # A terminal sends SIGINT to the workers as well; SIGTERM in its place cannot count as a second one.
        kill = signum == signal.SIGINT and signal.SIGINT in received
        received.append(signum)
        for process in multiprocessing.active_children():
            process.kill() if kill else os.kill(process.pid, signal.SIGTERM)

    previous = {signum: signal.signal(signum, forward) for signum in (signal.SIGTERM, signal.SIGINT)}
    # "Terminating process ...": the failed process has said why
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    said = tempfile.TemporaryDirectory(prefix="densessl-", ignore_cleanup_errors=True)
    where = (args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    try:
        with said:
            detectron2_launch(_worker, *where, args=(main, args, Path(said.name)))
    except ProcessExitedException as error:
        if error.signal_name and not received:  # it could say nothing itself
            print(
                f"The process of local rank {error.error_index} was killed by {error.signal_name}, perhaps "
                "because memory ran out. Saved checkpoints are intact; continue with --resume.",
                file=sys.stderr,
            )
        # a worker killed by a signal has a negative status; shells call that 128 + signal
        status = error.exit_code if error.exit_code > 0 else 128 - error.exit_code
        sys.exit(128 + received[0] if received else status)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
