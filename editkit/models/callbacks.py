"""What a pipeline of diffusers calls while it samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def on_step_end(tell: Callable[[int], object]) -> Callable[..., dict[str, Any]]:
    """A `callback_on_step_end` that changes nothing.

    Args:
        tell: given how many sampling steps are done.
    """

    def called(_: Any, step: int, __: Any, kept: dict[str, Any]) -> dict[str, Any]:
        tell(step + 1)
        return kept

    return called
