"""Several real processes with a gloo group, forked from a server that has torch already."""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
# What every process would otherwise import by itself: torch's own late imports, and the modules that hold the tests.
CONTEXT.set_forkserver_preload(
    ["torch.distributed.fsdp", "torch._dynamo", "tests.train.test_state", "tests.train.test_checkpoint"]
)


def run_processes(action: Callable[..., Any], count: int, *arguments: Any, seconds: float = 120) -> list[Any]:
    """Calls `action(*arguments)` in `count` processes with a group; returns what each returned, by rank.

    Raises:
        AssertionError: a process raised (with its traceback), died or did not end in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        answers = CONTEXT.Queue()
        store = Path(folder) / "store"
        processes = [
            CONTEXT.Process(target=_enter, args=(answers, rank, count, store, action, arguments)) for rank in range(count)
        ]
        for process in processes:
            process.start()
        try:
            found = dict(answers.get(timeout=seconds) for _ in processes)
        finally:
            for process in processes:
                process.kill()
                process.join()
    failed = [text for ok, text in found.values() if not ok]
    assert not failed, failed[0]
    return [found[rank][1] for rank in range(count)]


def _enter(answers: Any, rank: int, count: int, store: Path, action: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
        answer = (True, action(*arguments))
        dist.barrier()
    except BaseException:
        answer = (False, traceback.format_exc())
    answers.put((rank, answer))
    answers.close()
    answers.join_thread()  # the parent ends this process as soon as all have answered
