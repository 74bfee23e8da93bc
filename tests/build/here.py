"""An engine without other processes, whose start would take longer than the work; a test can let something fail in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from editkit.build.engine import Step


class Here:
    """Does every task in this process, one after the other."""

    processes = 1

    def run(self, steps: Sequence[Step], tasks: Iterable[Any]) -> Iterator[Any]:
        """See `editkit.build.engine.Engine`."""
        for task in tasks:
            for step in steps:
                task = step.function(task)
            yield task

    def close(self) -> None:
        """Nothing is open."""
