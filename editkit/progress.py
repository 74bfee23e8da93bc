"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Generator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class Bar(Protocol):
    """What `progress` yields."""

    def advance(self, n: int = 1, **fields: str) -> None:
        """Counts `n` more as done and shows `fields` behind the bar."""
        ...


@contextlib.contextmanager
def progress(total: int, label: str, done: int = 0) -> Generator[Bar, None, None]:
    """Shows how far work has come, how fast it is and how long it still takes.

    Args:
        total: units of work.
        label: what is being done.
        done: units that an earlier session did; they do not count for the rate.
    """
    if os.environ.get("EDITKIT_QUIET"):
        yield _Silent()
    elif sys.stderr.isatty():
        yield from _on_terminal(total, label, done)
    else:
        yield _Lines(total, label, done)


class _Silent:
    def advance(self, n: int = 1, **fields: str) -> None:
        return


class _Lines:
    """One line every ten seconds at the most, and one at the end."""

    def __init__(self, total: int, label: str, done: int) -> None:
        self._total, self._label = total, label
        self._first = self._done = done
        self._started = time.monotonic()
        self._last = self._started

    def advance(self, n: int = 1, **fields: str) -> None:
        self._done += n
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and self._done < self._total:
            return
        self._last = now
        rate = (self._done - self._first) / max(now - self._started, 1e-9)
        left = (self._total - self._done) / rate if rate else float("inf")
        shown = "".join(f"  {k} {v}" for k, v in fields.items())
        line = f"{self._label}: {self._done}/{self._total}  {rate:.1f}/s  {_clock(left)} left{shown}"
        print(line, file=sys.stderr, flush=True)


class _OnTerminal:
    def __init__(self, bars: Progress, total: int, label: str, done: int) -> None:
        self._bars = bars
        self._task = bars.add_task(label, total=total, completed=done, shown="")

    def advance(self, n: int = 1, **fields: str) -> None:
        shown = "  ".join(f"{k} {v}" for k, v in fields.items())
        self._bars.update(self._task, advance=n, shown=shown)


def _on_terminal(total: int, label: str, done: int) -> Generator[Bar, None, None]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(), TextColumn("{task.fields[shown]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bars:
        yield _OnTerminal(bars, total, label, done)


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
