"""Starts the processes of `[parallel]` on this machine, and ends all of them when one is lost."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch.multiprocessing as mp

from editkit.errors import UserError

GRACE_S = 30  # for the others to end when one is lost


def is_launched() -> bool:
    """Whether a launcher (ours, torchrun) has started this process as one of several."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def launch(processes: int, work: Callable[..., object], *arguments: Any) -> None:
    """Runs `work(*arguments)` in several processes, each with its rank in the environment.

    Args:
        processes: how many.
        work: a function of a module.
        arguments: of `work`; they travel to the other processes.

    Raises:
        UserError: a process was lost or failed; the others were ended.
        KeyboardInterrupt: the processes were asked to stop, and did.
    """
    mistakes = mp.get_context("spawn").SimpleQueue()
    context = mp.start_processes(
        _child,
        args=(processes, _free_port(), mistakes, work, arguments),
        nprocs=processes,
        join=False,
        start_method="spawn",
    )
    asked = False

    def pass_on(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for process in context.processes:
            if process.is_alive() and number == signal.SIGTERM:  # Ctrl-C reaches the whole group by itself
                os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not context.join(grace_period=GRACE_S):
            pass
    except mp.ProcessExitedException as error:
        if asked and error.exit_code == _STOPPED:
            raise KeyboardInterrupt from None
        if error.exit_code == _USERS and not mistakes.empty():
            raise UserError(mistakes.get()) from None
        how = f"was killed by {error.signal_name}" if error.signal_name else f"ended with code {error.exit_code}"
        raise UserError(
            f"process {error.error_index} of {processes} {how}, so the others were ended; go on from the last checkpoint "
            "with --resume"
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_USERS, _STOPPED = 2, 130


def _child(
    rank: int, processes: int, port: int, mistakes: Any, work: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        work(*arguments)
    except UserError as error:
        mistakes.put("\n".join([str(error), *getattr(error, "__notes__", [])]))
        os._exit(_USERS)  # the other processes cannot be waited for: they may wait for this one
    except KeyboardInterrupt:
        os._exit(_STOPPED)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
