"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere, nothing where quiet is set."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Generator
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
SECONDS_OF_RATE = 300.0  # what the rate of the bar is taken over; a step of a large model may last a minute


class Bar(Protocol):
    """What `progress` yields."""

    def advance(self, n: int = 1, **fields: str) -> None:
        """Counts `n` more as done and shows `fields` behind the bar."""
        ...


@contextlib.contextmanager
def progress(total: int, label: str, done: int = 0) -> Generator[Bar, None, None]:
    """Shows how far work has come, how fast it is and how long it still takes, on stderr.

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


@contextlib.contextmanager
def alone(asked: bool) -> Generator[TextIO, None, None]:
    """Where a program reads stdout, what is said on the way goes to stderr; yields the stdout that is left for the answer.

    Args:
        asked: whether one does.
    """
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if asked else contextlib.nullcontext():
        yield stdout


class _Silent:
    def advance(self, n: int = 1, **fields: str) -> None:
        return


class _Lines:
    """One line every ten seconds at the most, and one at the end."""

    def __init__(self, total: int, label: str, done: int) -> None:
        self._total, self._label = total, label
        self._first = self._done = done
        self._last = self._started = time.monotonic()

    def advance(self, n: int = 1, **fields: str) -> None:
        finishing = self._done < self._total <= self._done + n
        self._done += n
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and not finishing:
            return
        self._last = now
        elapsed = now - self._started
        speed = (self._done - self._first) / max(elapsed, 1e-9)
        times = f"{_clock(elapsed)} gone, {_clock(_left(self._total - self._done, speed))} left"
        parts = [f"{self._label}: {self._done}/{self._total}", _rate(speed), times, *_shown(fields)]
        print("  ".join(parts), file=sys.stderr, flush=True)


class _OnTerminal:
    def __init__(self, bars: Progress, total: int, label: str, done: int) -> None:
        self._bars = bars
        self._task = bars.add_task(label, total=total, completed=done, shown="")

    def advance(self, n: int = 1, **fields: str) -> None:
        self._bars.update(self._task, advance=n, shown="  ".join(_shown(fields)))


class _Label(ProgressColumn):
    """The only column that gives way where the terminal is narrow, besides the bar."""

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _Times(ProgressColumn):
    """Rate, time gone and time left."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0.0
        left = _left(int(task.remaining or 0), speed)
        return Text(f"{_rate(speed)}  {_clock(task.elapsed or 0.0)} · {_clock(left)} left", style="cyan")


def _on_terminal(total: int, label: str, done: int) -> Generator[Bar, None, None]:
    columns = (
        _Label(),
        BarColumn(None),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        _Times(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[shown]}", markup=False),
    )
    # What the work prints to stdout stays there where it goes into a file.
    with Progress(
        *columns,
        console=Console(stderr=True),
        expand=True,
        redirect_stdout=sys.stdout.isatty(),
        speed_estimate_period=SECONDS_OF_RATE,
    ) as bars:
        yield _OnTerminal(bars, total, label, done)


def _shown(fields: dict[str, str]) -> list[str]:
    return [f"{name.replace('_', '/')} {value}" for name, value in fields.items()]


def _left(units: int, speed: float) -> float:
    return units / speed if speed else float("inf")


def _rate(speed: float) -> str:
    """Units a second, or seconds a unit where that is more."""
    return f"{speed:.1f}/s" if speed >= 1 or not speed else f"{1 / speed:.1f} s each"


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
