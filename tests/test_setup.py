"""The set-up behind `make train`: a fitting Python, the tested versions, once. The interpreter, pip and uv are stand-ins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "echo", "env", "dirname", "mkdir", "cp", "chmod", "touch", "rm", "make", "sh")

# Takes notes of what it is asked for, and makes a .venv that holds itself.
PYTHON = """\
#!/bin/bash
echo "${0##*/} $*" >> "$NOTES"
case "$*" in
  --version) echo "Python $VERSION" ;;
  *version_info*) "$REAL" -c "import sys; sys.version_info = tuple(map(int, '$VERSION'.split('.'))); $2" ;;
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/uv ;;
  *"pip install --quiet --python"*) [ "$BROKEN" != uv ] ;;
  *"import torch"*) [ "$BROKEN" != torch ] && echo "setup: ready" ;;
esac
"""


class Place:
    """A folder with the real scripts, and a PATH on which there is no Python but the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name in TOOLS:
            found = shutil.which(name)
            assert found, f"this test needs {name}"
            (folder / "bin" / name).symlink_to(found)
        (folder / "scripts").mkdir()
        for name in ("scripts/setup.sh", "Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder / name)
        self.put("bin/python3", PYTHON)

    def put(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": str(self.folder / "bin"),
            "NOTES": str(self.folder / "notes"),
            "REAL": sys.executable,
            "VERSION": "3.11.0",
            "BROKEN": "",
            **variables,
        }
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    @property
    def notes(self) -> list[str]:
        path = self.folder / "notes"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_an_old_python_is_refused_in_one_line(place: Place) -> None:
    done = place.run("scripts/setup.sh", VERSION="3.10.14")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "found Python 3.10.14; editkit needs Python 3.11 or newer" in done.stderr
    assert not (place.folder / ".venv").exists()


def test_a_python_that_is_named_is_the_one_that_counts(place: Place) -> None:
    done = place.run("scripts/setup.sh", PYTHON="/nowhere/python")
    assert done.returncode == 2
    assert "found no /nowhere/python" in done.stderr


def test_uv_gets_the_tested_versions_and_the_local_wheels(place: Place) -> None:
    done = place.run("scripts/setup.sh", "dev", PIP_FIND_LINKS="/wheels /more")
    assert done.returncode == 0, done.stderr
    (call,) = [note for note in place.notes if note.startswith("uv ")]
    assert call.endswith("--find-links /wheels --find-links /more --constraint constraints.txt --editable .[dev]")


def test_without_local_wheels_torch_is_chosen_for_the_machine(place: Place) -> None:
    place.run("scripts/setup.sh")
    (call,) = [note for note in place.notes if note.startswith("uv ")]
    assert call.endswith("--torch-backend auto --constraint constraints.txt --editable .")


def test_pip_takes_over_with_the_same_versions_and_says_so(place: Place) -> None:
    done = place.run("scripts/setup.sh", BROKEN="uv")
    assert done.returncode == 0
    assert "pip tries" in done.stderr
    assert any("-m pip install" in note and "--constraint constraints.txt --editable ." in note for note in place.notes)


def test_a_torch_that_cannot_be_imported_is_not_ready(place: Place) -> None:
    done = place.run("scripts/setup.sh", BROKEN="torch")
    assert done.returncode == 1
    assert "torch is installed but cannot be imported" in done.stderr


def test_set_up_runs_once_and_again_when_the_versions_change(place: Place) -> None:
    place.put("scripts/setup.sh", '#!/bin/bash\nmkdir -p .venv && echo "setup $1" >> "$NOTES"\n')
    place.put(".venv/bin/editkit", '#!/bin/bash\necho "editkit $*" >> "$NOTES"\n')
    train = "editkit train recipes/instructpix2pix.toml"
    for _ in range(2):
        assert place.run("make", "train").returncode == 0
    assert place.notes == ["setup demo", train, train]
    stamp = (place.folder / ".venv" / ".ready").stat().st_mtime
    os.utime(place.folder / "constraints.txt", (stamp + 5, stamp + 5))
    place.run("make", "train")
    assert place.notes[3:] == ["setup demo", train]


def test_clean_keeps_what_took_hours(place: Place) -> None:
    for name in ("runs/one", "data/set", ".venv/bin"):
        (place.folder / name).mkdir(parents=True)
    assert place.run("make", "clean").returncode == 0
    assert (place.folder / "runs" / "one").is_dir()
    assert (place.folder / "data" / "set").is_dir()
    assert not (place.folder / ".venv").exists()
