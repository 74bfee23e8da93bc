"""Files that are whole or not there, and folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from editkit.errors import UserError
from editkit.files import make_folder, whole_file, write_whole

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("shared", [False, True])
def test_what_fails_leaves_the_file_of_before_and_nothing_else(shared: bool, tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"

    def fail(half: Path) -> None:
        half.write_bytes(b"PAR1 and no more")
        raise OSError("no space")

    for before in ([], [path]):
        with pytest.raises(OSError, match="no space"), whole_file(path, shared=shared) as half:
            fail(half)
        assert list(tmp_path.iterdir()) == before
        write_whole(path, "naïve\n", shared=shared)
        assert path.read_bytes() == "naïve\n".encode()


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    code = (
        "import os, sys; from pathlib import Path; from editkit.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as half: half.write_bytes(b'PAR1'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=False).returncode == 9
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    write_whole(path, b"PAR1 and all")
    assert list(tmp_path.iterdir()) == [path]


def test_processes_that_share_a_file_do_not_write_into_each_others(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    code = (
        "import sys; from pathlib import Path; from editkit.files import write_whole\n"
        "write_whole(Path(sys.argv[1]), b'b', shared=True)"
    )
    with whole_file(path, shared=True) as half:
        half.write_bytes(b"a")
        subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=True)
        assert path.read_bytes() == b"b"
        assert half.read_bytes() == b"a"
    assert path.read_bytes() == b"a"


def test_it_waits_for_the_disk_before_the_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flushed = tmp_path / "part.parquet", []
    monkeypatch.setattr("editkit.files.os.fsync", lambda handle: flushed.append(path.exists()))
    write_whole(path, b"PAR1")
    assert flushed == [False]


@pytest.mark.parametrize(("in_the_way", "said"), [("file", "not a directory"), ("link", "a link to nothing")])
def test_a_folder_that_cannot_be_made_names_what_is_in_its_way(in_the_way: str, said: str, tmp_path: Path) -> None:
    at = tmp_path / "data"
    at.write_text("") if in_the_way == "file" else at.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=f"data: {said}\\)"):
        make_folder(at / "scenes")
    at.unlink()
    make_folder(at / "scenes")
    make_folder(at / "scenes")
    with pytest.raises(UserError, match="scenes: file exists"):
        make_folder(at / "scenes", new=True)
