"""The same build on a real Ray of this machine: the same bytes, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from editkit.build.pipeline import build_spec
from editkit.build.ray_engine import RayEngine
from editkit.build.rows import Row
from editkit.build.stages import run_stages
from editkit.errors import UserError
from tests.build.test_release import MANY, ONE, Watched, _chain
from tests.build.test_release import _run as _run_released
from tests.build.test_stages import COUNTS, Distinct, Fails, Square, _files, _marks, _run
from tests.tiny import avatars_spec

pytest.importorskip("ray", reason="the extra ray is not installed")

ROOT = Path(__file__).parent.parent.parent
SPEC = avatars_spec(450, 3, 16)


@pytest.fixture(scope="module")
def ray_engine() -> Iterator[RayEngine]:
    engine = RayEngine(2)
    yield engine
    engine.close()


@dataclass(frozen=True)
class DiesOnce(Square):
    """The first process that is given the part that begins with 8 is killed in the middle of it."""

    def _make(self, rows: list[Row]) -> list[Row]:
        died = Path(self.marks) / "died"
        if rows[0].get("index") == 8 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._make(rows)


def test_the_bytes_are_those_of_the_local_engine(marks: Path, tmp_path: Path, ray_engine: RayEngine) -> None:
    found = _run(marks, tmp_path / "cluster", ray_engine)
    assert found == _run(marks, tmp_path / "local")
    assert _files(tmp_path / "cluster") == _files(tmp_path / "local")
    assert ray_engine.processes == 2


def test_a_killed_worker_loses_and_doubles_nothing(marks: Path, tmp_path: Path, ray_engine: RayEngine) -> None:
    run_stages([DiesOnce(str(marks))], COUNTS, tmp_path / "cluster", ray_engine, "test")
    assert (marks / "died").exists()
    made = {name: n for name, n in _marks(marks).items() if name.startswith("square")}
    run_stages([Square(str(marks), name="square")], COUNTS, tmp_path / "local", ray_engine, "test")
    assert set(made.values()) == {1}
    assert len(made) == 4 + 2
    assert _files(tmp_path / "cluster") == _files(tmp_path / "local")


def test_a_mistake_in_a_worker_is_the_users_line(marks: Path, tmp_path: Path, ray_engine: RayEngine) -> None:
    with pytest.raises(UserError, match=r"^eight is too much$"):
        run_stages([Fails(str(marks))], COUNTS, tmp_path / "work", ray_engine, "test")
    there = {path: path.stat().st_mtime_ns for path in tmp_path.glob("work/*/*.parquet")}
    run_stages([Square(str(marks))], COUNTS, tmp_path / "work", ray_engine, "test")
    assert all(path.stat().st_mtime_ns == at for path, at in there.items())  # what was finished is kept


def test_stages_that_gather_stand_between(marks: Path, tmp_path: Path, ray_engine: RayEngine) -> None:
    made = run_stages([Square(str(marks)), Distinct()], COUNTS, tmp_path / "work", ray_engine, "test")
    assert [name for name, _ in made] == ["square", "distinct"]


def test_stages_go_on_together_and_release_as_on_one_machine(marks: Path, tmp_path: Path, ray_engine: RayEngine) -> None:
    found = _run_released(_chain(marks), tmp_path / "cluster", ray_engine, MANY)
    assert found == _run_released(_chain(marks, release=False), tmp_path / "local", ONE, MANY)
    assert not list((tmp_path / "cluster").glob("0-*/*.parquet"))


def test_a_window_bounds_what_waits_for_a_slow_stage_and_opens_no_stage_again(
    marks: Path, tmp_path: Path, ray_engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editkit.build.ray_engine.WINDOW", 2)
    work = str(tmp_path / "work")
    judge = Watched(str(marks), name="judge", releases=True, processes=1, work=work, takes_s=0.5)
    run_stages([Watched(str(marks), name="draw", work=work), judge], {"train": 80}, Path(work), ray_engine, "test")
    seen = [int(mark.name.split("-")[1]) for mark in marks.glob("whole-*")]
    assert max(seen) <= 2
    opened = Counter(mark.name.split("-")[0] for mark in marks.glob("open *"))
    assert opened["open draw"] <= 2
    assert opened["open judge"] <= 2


def test_a_data_set_is_built_on_a_cluster_and_goes_on_behind_a_kill(workplace: Path) -> None:
    Path("small.toml").write_text(SPEC)
    command = [sys.executable, "-m", "editkit", "build", "small.toml", "--engine", "ray", "--out", "cluster"]
    place = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, env=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    work = Path("cluster.staging") / "work"
    while child.poll() is None and not list(work.glob("*/train-*.parquet")):
        time.sleep(0.02)
    child.kill()
    child.communicate()
    kept = {p.name: p.stat().st_mtime_ns for p in work.glob("*/*.parquet")}
    assert kept
    done = subprocess.run(command, env=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "453 examples" in done.stdout
    local = build_spec(Path("small.toml"), Path("local"))
    assert _files(Path("cluster")) == _files(local)


def test_a_cluster_that_does_not_answer_is_one_line(workplace: Path) -> None:
    Path("small.toml").write_text(SPEC)
    command = [sys.executable, "-m", "editkit", "build", "small.toml", "--engine", "ray"]
    place = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": "127.0.0.1:9"}
    done = subprocess.run(command, env=place, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "--engine ray: RAY_ADDRESS=127.0.0.1:9 does not answer" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
