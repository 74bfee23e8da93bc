"""Where the work of a build runs: processes of this machine, or a cluster (`editkit.build.ray_engine`)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from typing import Any, Protocol

from editkit.errors import UserError

# What every worker needs, imported once by the server that they are forked from; nothing that starts threads.
PRELOADED = ["editkit.build.pipeline", "editkit.lab.avatar_builder"]

IN_FLIGHT = 2  # tasks a process has at most of a step, the running one included: what waits takes memory, or disk


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to a task.

    Attributes:
        function: from what is given to what the next step is given; of a module, so that other processes find it.
        most: processes at most; 0 = as many as there are.
        accelerated: each computes on an accelerator, where there is one.
    """

    function: Callable[[Any], Any]
    most: int = 0
    accelerated: bool = False


class Engine(Protocol):
    """Leads tasks through steps; what a task makes lies in files, so what comes back is small."""

    processes: int

    def run(self, steps: Sequence[Step], tasks: Iterable[Any]) -> Iterator[Any]:
        """What comes out of the last step, as it comes, in no order.

        A task goes on to its next step while others are at an earlier one, and no step gets far ahead of the one behind it.

        Args:
            steps: the first is given the tasks.
            tasks: what can be pickled.
        """
        ...

    def close(self) -> None:
        """Ends the processes; the next `run` starts others."""
        ...


class LocalEngine:
    """Processes of this machine, as many as it lets us use, which stay from one stage to the next.

    They are forked from a server that has done nothing yet: a process that computed with several threads cannot be forked
    safely. They end when the one that started them does, however it ends.
    """

    def __init__(self, processes: int = 0) -> None:
        self.processes = processes or usable_cores()
        self._pools: dict[int, ProcessPoolExecutor] = {}

    def run(self, steps: Sequence[Step], tasks: Iterable[Any]) -> Iterator[Any]:
        """See `Engine`; a step asks the one before for tasks, no faster than it does them itself."""
        try:
            for step in steps:
                tasks = self._run(step, tasks)
            yield from tasks
        except BrokenProcessPool as error:
            self._end()
            raise UserError(
                "a process of the build was ended from outside (out of memory?); "
                "what is finished is kept, and the same command goes on"
            ) from error
        except BaseException:
            self._end()
            raise

    def _run(self, step: Step, tasks: Iterable[Any]) -> Iterator[Any]:
        most = 1 if step.accelerated and _has_accelerator() else step.most  # several would be in each other's way
        processes = min(self.processes, most or self.processes)
        pool = self._pools.get(processes) or self._started(processes)
        flight: set[Future[Any]] = set()
        for task in tasks:
            flight.add(pool.submit(step.function, task))
            patience = None if len(flight) >= IN_FLIGHT * processes else 0.0
            done, flight = wait(flight, patience, FIRST_COMPLETED)
            yield from (f.result() for f in done)
        while flight:
            done, flight = wait(flight, return_when=FIRST_COMPLETED)
            yield from (f.result() for f in done)

    def _end(self) -> None:
        """Nobody waits for the tasks in flight, of any step; Python has a public way to end them only from 3.14 on."""
        for pool in self._pools.values():
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
        self.close()

    def _started(self, processes: int) -> ProcessPoolExecutor:
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            context.set_forkserver_preload(["__main__", *PRELOADED])
        self._pools[processes] = ProcessPoolExecutor(processes, context, initializer=_begin_worker)
        return self._pools[processes]

    def close(self) -> None:
        while self._pools:
            self._pools.popitem()[1].shutdown(wait=True, cancel_futures=True)


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def engine_of(name: str) -> Engine:
    """The engine that `--engine` names."""
    if name == "local":
        return LocalEngine()
    if name == "ray":
        from editkit.build.ray_engine import RayEngine

        return RayEngine()
    raise UserError(f'--engine: found "{name}"; expected "local" or "ray"')


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and ends us
    parent = multiprocessing.parent_process()
    if parent is None:
        raise ValueError("a worker has to be started by another process")

    def end_with(sentinel: int) -> None:
        wait_for([sentinel])
        os._exit(1)

    threading.Thread(target=end_with, args=(parent.sentinel,), daemon=True).start()
