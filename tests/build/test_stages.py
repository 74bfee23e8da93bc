"""Stages over parts: whole or not there, made once, the same by any number of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editkit.build.engine import IN_FLIGHT, LocalEngine, Step
from editkit.build.rows import Row
from editkit.build.stages import Part, first_parts, run_stages, write_part
from editkit.errors import UserError

ROOT = Path(__file__).parent.parent.parent
NUMBERS = pa.schema([("number", pa.int64()), ("dropped", pa.string())])


@dataclass(frozen=True)
class Square:
    """Squares, drops the multiples of three, and leaves a mark on disk for every part that it made."""

    marks: str
    factor: int = 1
    name: str = "square"
    part_size: int = 4
    processes: int = 0
    accelerated: bool = False
    releases: bool = False
    schema = NUMBERS

    def identity(self) -> Mapping[str, Any]:
        return {"factor": self.factor}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return self._make

    def _make(self, rows: list[Row]) -> list[Row]:
        numbers = [row.get("number", row.get("index")) for row in rows]
        Path(self.marks, f"{self.name}-{rows[0]['split']}-{numbers[0]}-{time.monotonic_ns()}").touch()
        return [{"number": self.factor * n * n, "dropped": "" if n % 3 else "a multiple"} for n in numbers]


@dataclass(frozen=True)
class Distinct:
    """Drops what came before, in whichever split."""

    part_size: int = 3
    name: str = "distinct"
    schema = NUMBERS

    def identity(self) -> Mapping[str, Any]:
        return {"part_size": self.part_size}

    def gather(self, rows: Iterator[Row]) -> Iterator[Row]:
        seen: set[int] = set()
        for row in rows:
            yield {**row, "dropped": "twice" if row["number"] in seen else ""}
            seen.add(row["number"])


class Fails(Square):
    """Cannot do the part that begins with 8."""

    def _make(self, rows: list[Row]) -> list[Row]:
        if rows[0]["index"] == 8:
            raise UserError("eight is too much")
        return super()._make(rows)


class Dies(Square):
    """Its process is killed at the part that begins with 8."""

    def _make(self, rows: list[Row]) -> list[Row]:
        if rows[0]["index"] == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._make(rows)


COUNTS = {"train": 14, "test": 5}
ONE, TWO = LocalEngine(1), LocalEngine(2)  # their processes stay, so that each test does not start some


@pytest.fixture(scope="module", autouse=True)
def _engines() -> Iterator[None]:
    yield
    ONE.close()
    TWO.close()


def _run(marks: Path, work: Path, engine: LocalEngine = TWO, **changes: Any) -> dict[str, list[int]]:
    chain = [Square(str(marks), **changes), Distinct(), Square(str(marks), name="again")]
    *_, (_, parts) = run_stages(chain, COUNTS, work, engine, "test")
    return {split: [r["number"] for p in parts if p.split == split for r in p.rows()] for split in COUNTS}


def _marks(marks: Path) -> Counter[str]:
    return Counter(path.name.rpartition("-")[0] for path in marks.iterdir())


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_rows_go_through_all_stages_in_order_without_those_that_were_dropped(marks: Path, tmp_path: Path) -> None:
    found = _run(marks, tmp_path / "work")
    # The test split's squares came before, in the training split; only its multiples of three were dropped earlier.
    assert found == {"train": [n**4 for n in range(14) if n % 3], "test": []}


def test_the_bytes_do_not_depend_on_the_number_of_processes(marks: Path, tmp_path: Path) -> None:
    for engine in (ONE, TWO):
        _run(marks, tmp_path / str(engine.processes), engine)
    assert _files(tmp_path / "1") == _files(tmp_path / "2")


def test_what_is_there_is_not_made_again_and_what_is_missing_is(marks: Path, tmp_path: Path) -> None:
    _run(marks, tmp_path / "work")
    before, files = _marks(marks), _files(tmp_path / "work")
    assert set(before.values()) == {1}
    _run(marks, tmp_path / "work")
    assert _marks(marks) == before
    (gone,) = (tmp_path / "work").glob("0-*/train-000001.parquet")
    gone.unlink()
    (gone.parent / "train-000002.parquet.77.half").write_bytes(b"PAR1")
    _run(marks, tmp_path / "work")
    assert _marks(marks) - before == Counter({"square-train-4": 1})
    assert _files(tmp_path / "work") == files


def test_another_parameter_makes_its_stage_and_the_later_ones_anew_and_no_earlier_one(marks: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    _run(marks, work)
    before = {folder.name for folder in work.iterdir()}
    chain = [Square(str(marks)), Distinct(2), Square(str(marks), name="again")]
    run_stages(chain, COUNTS, work, ONE, "test")
    after = {folder.name for folder in work.iterdir()}
    assert len(after) == 3
    assert [name[:2] for name in before & after] == ["0-"]
    _run(marks, work, factor=2)
    assert not after & {folder.name for folder in work.iterdir()}


def test_gathered_parts_have_even_numbers_of_kept_rows(marks: Path, tmp_path: Path) -> None:
    made = dict(run_stages([Square(str(marks)), Distinct()], COUNTS, tmp_path / "work", ONE, "test"))
    assert [(p.file, p.count()) for p in made["distinct"]] == [
        ("train-000000.parquet", 3), ("train-000001.parquet", 3), ("train-000002.parquet", 3), ("test-000000.parquet", 0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "words"), [(Fails, "eight is too much"), (Dies, "ended from outside.*the same command goes on")]
)
def test_a_worker_that_fails_or_is_killed_stops_the_build_and_loses_nothing(
    kind: type[Square], words: str, marks: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    run_stages([Square(str(marks))], COUNTS, whole, ONE, "test")
    work = tmp_path / "work"
    with pytest.raises(UserError, match=words):
        run_stages([kind(str(marks))], COUNTS, work, ONE, "test")
    (folder,) = work.iterdir()
    done = {p.name for p in folder.glob("*.parquet")}
    assert "train-000000.parquet" in done
    assert "train-000002.parquet" not in done
    before = _marks(marks)
    run_stages([Square(str(marks))], COUNTS, work, TWO, "test")
    assert _files(work) == _files(whole)
    assert sum((_marks(marks) - before).values()) == len(first_parts(COUNTS, 4)) - len(done)


def test_tasks_are_taken_no_faster_than_they_are_done() -> None:
    taken = 0

    def tasks() -> Iterator[int]:
        nonlocal taken
        for taken in range(1, 50):
            yield -taken

    for done, _ in enumerate(TWO.run([Step(abs)], tasks()), 1):
        assert taken - done <= IN_FLIGHT * 2
    assert done == 49


def wait_there(path: str) -> None:
    """In a worker: says who it is, and would stay for a minute."""
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


def test_the_workers_of_a_build_that_was_killed_end_too(tmp_path: Path) -> None:
    code = (
        "from tests.build.test_stages import wait_there; from editkit.build.engine import LocalEngine, Step; "
        f"list(LocalEngine(1).run([Step(wait_there)], [{str(tmp_path / 'pid')!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        assert _comes_true(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text() != "")
    finally:
        process.kill()
        process.wait()
    worker = int((tmp_path / "pid").read_text())
    assert _comes_true(lambda: not _is_running(worker))


def _comes_true(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 40
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_part_may_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    write_part(path, [], NUMBERS)
    assert pq.read_table(path).num_rows == 0
    assert Part("train", 0, path).rows() == []
