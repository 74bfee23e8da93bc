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
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib import import_module
from itertools import islice
from typing import Any

from editkit.build.engine import Step, usable_cores
from editkit.environment import require_extra
from editkit.errors import UserError

WINDOW = 8  # tasks a worker that are given to Ray at once where there are several steps: it may let the first run far ahead
PATIENCE_S = 10  # for a cluster to answer
OURS = "EDITKIT_"  # what the variables begin with that the workers are given; keys of vendors have to be set on the nodes


class RayEngine:
    """The cluster that RAY_ADDRESS names, or one of this machine's cores that ends with the build."""

    def __init__(self, processes: int = 0) -> None:
        require_extra("ray", "--engine ray")
        self.processes = processes or usable_cores()  # of a cluster, what it has when the work begins
        self._started = False

    def run(self, steps: Sequence[Step], tasks: Iterable[Any]) -> Iterator[Any]:
        """See `Engine`; Ray Data holds back parts for which there is no worker."""
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
        kinds = ["GPU" if step.accelerated and resources.get("GPU") else "CPU" for step in steps]
        workers = min(step.most or max(1, int(resources.get(kind, 0))) for step, kind in zip(steps, kinds, strict=True))
        waiting = ({"task": pickle.dumps(task), "mistake": ""} for task in tasks)
        while rows := list(islice(waiting, WINDOW * workers if len(steps) > 1 else None)):
            # A block a part: what is lost with a worker is one part.
            parts = data.from_items(rows, override_num_blocks=len(rows))
            for step, kind in zip(steps, kinds, strict=True):
                wanted = {f"num_{kind.lower()}s": 1}
                parts = parts.map(partial(_in_worker, step.function, os.getcwd()), concurrency=step.most or None, **wanted)
            for row in parts.iter_rows():
                if row["mistake"]:
                    raise UserError(row["mistake"])
                yield pickle.loads(row["task"])

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
    if row["mistake"]:  # of an earlier step
        return row
    os.chdir(folder)  # what the spec names is relative to it
    try:
        return {"task": pickle.dumps(function(pickle.loads(row["task"]))), "mistake": ""}
    except UserError as error:  # as text: what Ray makes of an exception names its own settings
        return {"task": b"", "mistake": str(error)}
