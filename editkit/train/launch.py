"""Starts the processes of `[parallel]` on this machine, and ends all of them when one is lost."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing import connection
from types import FrameType
from typing import Any

import torch.multiprocessing as mp

from editkit.errors import UserError

START = "spawn"  # a fork cannot use an accelerator that its parent has touched
GRACE_S = 5  # for the others to end when one is lost
STOP_S = 60  # for the others to end when one has stopped, as all were asked to


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
    mistakes, stopped = mp.get_context(START).SimpleQueue(), mp.get_context(START).Event()
    context = mp.start_processes(
        _child,
        args=(processes, _free_port(), mistakes, stopped, work, arguments),
        nprocs=processes,
        join=False,
        start_method=START,
    )
    asked = False
    codes: list[Any] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = True
        for process in context.processes:
            if process.is_alive() and number == signal.SIGTERM:  # Ctrl-C reaches the whole group by itself
                os.kill(process.pid, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ended = False
        while not ended:
            if not connection.wait(list(context.sentinels), STOP_S if stopped.is_set() else None):
                break  # it was elsewhere, and waits for those that have stopped
            codes = [process.exitcode for process in context.processes]  # before `join` ends the others
            ended = context.join(grace_period=GRACE_S)
        if stopped.is_set():
            raise KeyboardInterrupt
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        # When one is lost the others fail for want of it, and may be noticed first: what was lost comes before what failed.
        if not mistakes.empty():
            raise UserError(mistakes.get()) from None
        if asked and (stopped.is_set() or -signal.SIGTERM in codes):
            raise KeyboardInterrupt from None
        killed = [number for number, code in enumerate(codes) if code is not None and code < 0]
        if not killed and isinstance(error, mp.ProcessRaisedException):
            raise
        number = killed[0] if killed else error.error_index
        how = f"was killed by {signal.Signals(-codes[number]).name}" if killed else f"ended with code {codes[number]}"
        raise UserError(
            f"process {number} of {processes} {how}, so the others were ended; go on from the last checkpoint with --resume"
        ) from None
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
                process.join()
        for number, handler in before.items():
            signal.signal(number, handler)


_USERS = 2


def _child(
    rank: int, processes: int, port: int, mistakes: Any, stopped: Any, work: Callable[..., object], arguments: tuple[Any, ...]
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
        sys.stdout.flush()
        os._exit(_USERS)  # the other processes cannot be waited for: they may wait for this one
    except KeyboardInterrupt:
        stopped.set()  # and an end like any other, which does not make `join` end those that are a moment behind


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
