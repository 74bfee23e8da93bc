"""What several training processes do together; a single process without a process group is the same with one rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch.distributed as dist

from editkit.errors import UserError

T = TypeVar("T")


def world() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def together(action: Callable[[], T]) -> list[T]:
    """Runs `action` in every process and waits for all: when one fails, all fail with its message, and none hangs.

    Args:
        action: takes no part in collectives itself; its result can be pickled.

    Returns:
        The results in the order of the ranks.

    Raises:
        UserError: a process raised one.
        RuntimeError: a process raised anything else (without a process group, that error itself).
    """
    _, count = world()
    if count == 1:
        return [action()]
    result, error = None, None
    try:
        result = action()
    except Exception as raised:
        error = raised
    answer = (result, None if error is None else (isinstance(error, UserError), str(error) or type(error).__name__))
    answers: list[Any] = [None] * count
    dist.all_gather_object(answers, answer)
    failed = [(other, failure) for other, (_, failure) in enumerate(answers) if failure is not None]
    if failed:
        other, (is_users, text) = failed[0]
        raise UserError(text) if is_users else RuntimeError(f"process {other} of {count}: {text}") from error
    return [cast(T, result) for result, _ in answers]


def on_first(action: Callable[[], T]) -> T:
    """Runs `action` in the process of rank 0 alone; every process gets its result or its error (see `together`)."""
    rank, _ = world()
    return cast(T, together(lambda: action() if rank == 0 else None)[0])
