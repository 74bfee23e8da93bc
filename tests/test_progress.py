"""Progress on a terminal, in a log file, and where quiet is asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from editkit import progress as module
from editkit.progress import progress

WORK = """
from editkit.progress import progress
with progress(1000, "training [red]a recipe with a long name", done=400) as bar:
    for _ in range(600):
        bar.advance(1, loss="0.1234", samples_s="78")
    print("a result")
"""


class Clock:
    """Time that passes when a test says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.delenv("EDITKIT_QUIET")
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_log_gets_a_line_every_ten_seconds_and_one_at_the_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(100, "training x") as bar:
        for _ in range(100):
            clock.now += 0.25
            bar.advance(1, loss="0.5", samples_s="32")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "training x: 40/100  4.0/s  0:10 gone, 0:15 left  loss 0.5  samples/s 32",
        "training x: 80/100  4.0/s  0:20 gone, 0:05 left  loss 0.5  samples/s 32",
        "training x: 100/100  4.0/s  0:25 gone, 0:00 left  loss 0.5  samples/s 32",
    ]


def test_work_of_an_earlier_session_does_not_count_for_the_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(1000, "training", done=900) as bar:
        clock.now += 20
        bar.advance(10)
    assert capsys.readouterr().err == "training: 910/1000  2.0 s each  0:20 gone, 3:00 left\n"


def test_more_work_than_announced_is_not_a_line_each(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(2, "checking") as bar:
        for _ in range(50):
            clock.now += 0.01
            bar.advance()
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("total", [0, 3])
def test_quiet_prints_nothing(total: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDITKIT_QUIET", "1")
    with progress(total, "checking") as bar:
        for _ in range(total):
            bar.advance(1, loss="1")
    assert capfd.readouterr() == ("", "")


def test_long_work_is_told_in_hours(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress(4, "training") as bar:
        clock.now += 3 * 3600 + 65
        bar.advance(2)
    assert "3:01:05 gone, 3:01:05 left" in capsys.readouterr().err


def test_a_log_file_gets_no_control_characters() -> None:
    done = _run(stderr=subprocess.PIPE)
    assert done.stdout == "a result\n"
    assert "1000/1000" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\r" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_shows_every_figure_on_one_line(columns: int) -> None:
    reader, writer = os.openpty()
    done = _run(stderr=writer, COLUMNS=str(columns), TERM="xterm-256color")
    os.close(writer)
    shown = b""
    while chunk := _read(reader):
        shown += chunk
    os.close(reader)
    assert done.stdout == "a result\n"  # what the work prints is not drawn into the bar
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()))
    lines = [line for line in lines if line.strip()]
    assert all("/1000" in line and len(line) <= columns for line in lines), lines
    last = lines[-1]
    assert re.search(r"1000/1000 [\d.]+/s  \d:\d\d · 0:00 left loss 0\.1234  samples/s 78", last), last
    if columns == 160:
        assert last.startswith("training [red]a recipe with a long name ━")


def _run(*, stderr: int, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "EDITKIT_QUIET"}
    return subprocess.run(
        [sys.executable, "-c", WORK], stdout=subprocess.PIPE, stderr=stderr, text=True, env=kept | environment, check=True
    )


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 65536)
    except OSError:  # Linux says so when the other end is closed
        return b""
