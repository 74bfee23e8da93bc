"""Consecutive stages go on part by part, and one may release what stands before it."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from editkit.build.engine import IN_FLIGHT, Engine, LocalEngine
from editkit.build.pipeline import funnel
from editkit.build.rows import Row
from editkit.build.stages import run_stages
from editkit.errors import UserError
from tests.build.here import Here
from tests.build.test_stages import COUNTS, Distinct, Square, _files, _marks

ONE, TWO = LocalEngine(1), LocalEngine(2)
MANY = {"train": 120, "test": 8}  # 32 parts


@pytest.fixture(scope="module", autouse=True)
def _engines() -> Iterator[None]:
    yield
    ONE.close()
    TWO.close()


@dataclass(frozen=True)
class Watched(Square):
    """Says who opened it, and how many parts of the first stage are whole each time that it makes one."""

    work: str = ""
    takes_s: float = 0.0

    def open(self) -> Callable[[list[Row]], list[Row]]:
        Path(self.marks, f"open {self.name}-{os.getpid()}-{time.monotonic_ns()}").touch()
        return super().open()

    def _make(self, rows: list[Row]) -> list[Row]:
        whole = len(list(Path(self.work).glob("0-*/*.parquet")))
        Path(self.marks, f"whole-{whole}-{time.monotonic_ns()}").touch()
        time.sleep(self.takes_s)
        return super()._make(rows)


def _chain(marks: Path, release: bool = True, **changes: Any) -> list[Any]:
    before, after = Square(str(marks), name="draw"), Square(str(marks), name="judge", releases=release, **changes)
    return [before, after, Square(str(marks), name="last")]


def _run(chain: Sequence[Any], work: Path, engine: Engine, counts: dict[str, int] = COUNTS) -> dict[str, Any]:
    made = run_stages(chain, counts, work, engine, "test")
    return {"funnel": funnel(made), "bytes": [p.path.read_bytes() for p in made[-1][1] if p.path]}


def _names(work: Path, pattern: str) -> list[str]:
    return sorted(p.name for p in work.glob(pattern))


@pytest.mark.parametrize("engine", [ONE, TWO], ids=["one", "two"])
def test_releasing_changes_neither_the_result_nor_what_is_known_of_the_stages(
    engine: LocalEngine, marks: Path, tmp_path: Path
) -> None:
    kept = _run(_chain(marks, release=False), tmp_path / "kept", ONE)
    assert _run(_chain(marks), tmp_path / "released", engine) == kept
    assert kept["funnel"]["draw"] == {"kept": 12, "a multiple": 7}
    assert len(_names(tmp_path / "kept", "0-*/*.parquet")) == 6
    assert _names(tmp_path / "released", "0-*/*.parquet") == []
    assert _names(tmp_path / "released", "1-*/*") == _names(tmp_path / "kept", "1-*/*")
    # What is whole is not looked at again, whoever asks.
    before = _marks(marks)
    assert _run(_chain(marks), tmp_path / "released", engine) == kept
    assert _marks(marks) == before


@pytest.mark.parametrize("engine", [ONE, TWO], ids=["one", "two"])
def test_no_more_parts_wait_than_are_in_the_making(engine: LocalEngine, marks: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    chain = [Square(str(marks), name="draw"), Watched(str(marks), name="judge", releases=True, work=str(work))]
    run_stages(chain, MANY, work, engine, "test")
    seen = [int(mark.name.split("-")[1]) for mark in marks.glob("whole-*")]
    assert len(seen) == 32
    assert max(seen) <= 2 * IN_FLIGHT * engine.processes


def test_a_process_opens_a_stage_once_and_lets_go_of_those_that_are_over(marks: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    names = ("first", "gathered", "draw", "judge")
    first, _, draw, judge = (Watched(str(marks), name=name, work=str(work)) for name in names)
    engine = LocalEngine(1)
    run_stages([first, Distinct(), draw, judge], MANY, work, engine, "test")
    engine.close()
    opened = Counter(mark.name.split("-")[0] for mark in marks.glob("open *"))
    assert opened == {"open first": 1, "open draw": 1, "open judge": 1}


def test_a_stage_that_allows_one_process_has_one_beside_stages_that_have_more(marks: Path, tmp_path: Path) -> None:
    work = str(tmp_path / "work")
    chain = [Watched(str(marks), name="draw", work=work), Watched(str(marks), name="asks", processes=1, work=work)]
    run_stages(chain, MANY, Path(work), TWO, "test")
    assert len(list(marks.glob("open asks-*"))) == 1
    assert len(list(marks.glob("open draw-*"))) == 2


def test_stopped_before_or_behind_any_change_on_the_disk_it_goes_on_to_the_same_end(
    marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(_chain(marks), tmp_path / "whole", ONE)
    files = _files(tmp_path / "whole")
    left = 0

    def counted(change: Callable[..., Any], after: bool) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left:
                return change(*arguments, **options)
            if after:
                change(*arguments, **options)
            raise KeyboardInterrupt

        return changed

    stops = 0
    for after in (False, True):
        for at in range(1, 100):
            left, work = at, tmp_path / f"{after}-{at}"
            with monkeypatch.context() as patch:
                for name in ("replace", "unlink"):
                    patch.setattr(Path, name, counted(getattr(Path, name), after))
                try:
                    _run(_chain(marks), work, Here())
                    break
                except KeyboardInterrupt:
                    stops += 1
            assert _run(_chain(marks), work, Here()) == whole
            assert _files(work) == files
    assert stops == 2 * 6 * 5  # of six parts three files and what is left of one are put in place, and one is deleted


def test_releasing_can_be_switched_on_behind_a_stop(marks: Path, tmp_path: Path) -> None:
    kept = _run(_chain(marks, release=False), tmp_path / "work", ONE)
    before = _marks(marks)
    assert _run(_chain(marks), tmp_path / "work", ONE) == kept
    assert _marks(marks) == before
    assert _names(tmp_path / "work", "0-*/*.parquet") == []


def test_other_options_of_the_judge_are_refused_where_what_it_needs_was_released(marks: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    _run(_chain(marks, release=False), work, ONE)
    _run(_chain(marks, factor=2), work, ONE)  # nothing had been released
    assert {n for name, n in _marks(marks).items() if name.startswith("draw")} == {1}
    files = _files(work)
    with pytest.raises(UserError, match=r"found 6 parts that were released to a judge with other options.*delete .*1-judge-"):
        _run(_chain(marks, factor=3), work, ONE)
    assert _files(work) == files
    (judged,) = work.glob("1-*")
    for path in judged.iterdir():
        path.unlink()
    judged.rmdir()
    assert _run(_chain(marks, factor=3), work, ONE) == _run(_chain(marks, factor=3), tmp_path / "anew", ONE)


def test_one_bar_tells_of_all_the_stages_that_go_on_together(
    marks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDITKIT_QUIET", raising=False)
    run_stages([*_chain(marks), Distinct()], COUNTS, tmp_path / "work", ONE, "building")
    together = [line for line in capsys.readouterr().err.splitlines() if "draw" in line]
    # 12 of 19 are no multiples of three, nor are their squares.
    assert re.match(r"building: draw, judge, last \(1-3 of 4\): 19/19  .*  .* gone, 0:00 left  kept 63%", together[-1])
