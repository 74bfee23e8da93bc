"""The work of a build on a Ray cluster: `editkit build SPEC --engine ray`.

Ray Data hands out the parts, waits where nothing is free, and gives a part to another worker when the first one is lost. A part
is a file that is whole or not there, so one that is made twice is the same file. All nodes have to see the folder in which the
command runs, under the same path.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

from editkit.build.engine import usable_cores
from editkit.environment import require_extra
from editkit.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

PATIENCE_S = 10  # for a cluster to answer
OURS = "EDITKIT_"  # what the variables begin with that the workers are given; keys of vendors have to be set on the nodes


class RayEngine:
    """The cluster that RAY_ADDRESS names, or one of this machine's cores that ends with the build."""

    def __init__(self, processes: int = 0) -> None:
        require_extra("ray", "--engine ray")
        self.processes = processes or usable_cores()  # of a cluster, what it has when the work begins
        self._started = False

    def run(self, function: Callable[[T], R], tasks: Iterable[T], most: int = 0, accelerated: bool = False) -> Iterator[R]:
        """See `Engine`; Ray Data holds back parts for which there is no worker."""
        rows = [{"task": pickle.dumps(task)} for task in tasks]
        if not rows:
            return
        ray, data = _ray("ray"), _ray("ray.data")
        if not ray.is_initialized():
            _start(ray, self.processes)
            self._started = True
        resources = ray.cluster_resources()
        self.processes = int(resources.get("CPU", 0))
        context = data.DataContext.get_current()
        context.enable_progress_bars = False  # the build has its own
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what goes wrong is said once, by us
        wanted = {"num_gpus": 1} if accelerated and resources.get("GPU") else {"num_cpus": 1}
        # A block a part: what is lost with a worker is one part.
        parts = data.from_items(rows, override_num_blocks=len(rows))
        done = parts.map(partial(_in_worker, function, os.getcwd()), concurrency=most or None, **wanted)
        for row in done.iter_rows():
            if row["mistake"]:
                raise UserError(row["mistake"])
            yield pickle.loads(row["result"])

    def close(self) -> None:
        if self._started:
            _ray("ray").shutdown()
            self._started = False


def _ray(module: str) -> Any:
    """Imported where it is used; its annotations know less than its documentation says."""
    return import_module(module)


def _start(ray: Any, processes: int) -> None:
    address = os.environ.get("RAY_ADDRESS")
    ours = {name: value for name, value in os.environ.items() if name.startswith(OURS)}
    options: dict[str, Any] = {"address": address} if address else {"num_cpus": processes, "include_dashboard": False}
    try:
        if address and (at := re.fullmatch(r"(?:ray://)?(\S+):(\d+)", address)):
            socket.create_connection((at[1], int(at[2])), PATIENCE_S).close()  # Ray itself would ask for minutes
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": ours})
    except (OSError, RuntimeError, ValueError) as error:
        where = f"RAY_ADDRESS={address}" if address else "a local cluster"
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--engine ray: {where} does not answer ({reason}); start it, or use --engine local") from error


def _in_worker(function: Callable[[Any], Any], folder: str, row: dict[str, Any]) -> dict[str, Any]:
    os.chdir(folder)  # what the spec names is relative to it
    try:
        return {"result": pickle.dumps(function(pickle.loads(row["task"]))), "mistake": ""}
    except UserError as error:  # as text: what Ray makes of an exception names its own settings
        return {"result": b"", "mistake": str(error)}
