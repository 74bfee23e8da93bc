"""What processes do together: all succeed, or all fail with one message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist

from editkit.errors import UserError
from editkit.train.ranks import on_first, together, world
from tests.train.processes import run_processes


def attempt(action: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "answer", action()
    except (UserError, RuntimeError) as error:
        return type(error).__name__, str(error)


def in_each() -> list[Any]:
    rank = dist.get_rank()

    def fail(error: type[Exception], where: int) -> str:
        if rank == where:
            raise error("no space")
        return "fine"

    return [
        world(),
        attempt(lambda: together(lambda: rank * 10)),
        attempt(lambda: together(lambda: fail(UserError, 1))),
        attempt(lambda: together(lambda: fail(ValueError, 1))),
        attempt(lambda: on_first(lambda: rank)),
        attempt(lambda: on_first(lambda: fail(UserError, 0))),
    ]


def test_one_failure_is_everybodys() -> None:
    first, second = run_processes(in_each, 2)
    assert (first[0], second[0]) == ((0, 2), (1, 2))
    assert first[1:] == second[1:]
    assert first[1:] == [
        ("answer", [0, 10]),
        ("UserError", "no space"),
        ("RuntimeError", "process 1 of 2: no space"),
        ("answer", 0),
        ("UserError", "no space"),
    ]


def test_one_process_keeps_its_own_error() -> None:
    assert world() == (0, 1)
    assert together(lambda: 3) == [3]
    with pytest.raises(ZeroDivisionError):
        on_first(lambda: 1 // 0)
