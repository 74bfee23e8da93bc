"""Hub data sets read where they lie: a stand-in for the Hub's file system, everything else is real."""

from __future__ import annotations

import importlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import datasets
import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry

from editkit.cli import main
from editkit.data import row_groups
from editkit.data.check import audit_pictures
from editkit.data.formats import RemoteRows
from editkit.data.keep_out import KeptOut, refuse_evaluation
from editkit.data.read import open_dataset
from editkit.errors import UserError
from tests.data.shapes import image
from tests.tiny import picture

HEAD = """\
format = 1
name = "far"
kind = "edit_pairs"
[split]
test = 0.0
[read]
layout = "hf"
repo = "someone/edits"
revision = "refs/convert/x"
"""
COLUMNS = '[read.columns]\nsource = "before"\ntarget = "after"\ninstruction = "text"\nscores = ["score"]\n'


class Hub(DirFileSystem):
    protocol = "hf"
    cachable = False
    root = ""

    def __init__(self, **_: object) -> None:
        super().__init__(path=self.root, fs=LocalFileSystem())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that stands for the repository, behind hf://."""
    where = tmp_path / "hub"
    folder = where / "datasets/someone/edits@refs%2Fconvert%2Fx"

    monkeypatch.setattr(Hub, "root", str(where))
    for split, count in (("train", 20), ("dev", 3)):
        rows = [
            {"before": image("red"), "after": image("blue"), "text": f"{split} {n}", "score": n, "big": "x" * 100}
            for n in range(count)
        ]
        table = datasets.Dataset.from_list(rows)
        path = folder / f"data/{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.data.table, path, row_group_size=5)
    before = _registry.get("hf")
    fsspec.register_implementation("hf", Hub, clobber=True)
    yield folder
    _registry.pop("hf")
    if before is not None:
        _registry["hf"] = before


def far(tmp_path: Path, read: str = "") -> str:
    (tmp_path / "far.toml").write_text(HEAD + read + COLUMNS)
    return str(tmp_path / "far.toml")


def test_rows_are_read_from_the_hub_group_by_group(tmp_path: Path, hub: Path) -> None:
    dataset = open_dataset(far(tmp_path))
    assert isinstance(dataset, RemoteRows)
    assert [dataset[i].instructions[0] for i in range(len(dataset))] == [f"train {n}" for n in range(20)]
    assert dataset[7].scores == {"score": 7.0}
    assert dataset[0].target.open().tobytes() == picture("blue").tobytes()
    assert dataset.group_sizes == [5, 5, 5, 5]
    assert audit_pictures(dataset, 0) == list(range(20))
    assert dataset.unread == ["big"]
    assert pickle.loads(pickle.dumps(dataset._rows))[19]["text"] == "train 19"


def test_a_url_says_the_same_as_a_repository(tmp_path: Path, hub: Path) -> None:
    where = 'path = "hf://datasets/someone/edits@refs%2Fconvert%2Fx"\ntest_split = "dev"\n'
    assert len(open_dataset(far(tmp_path, where), "train")) == 20
    assert len(open_dataset(far(tmp_path, where), "test")) == 3


def test_a_copy_on_this_disk_goes_before_the_hub(tmp_path: Path, hub: Path) -> None:
    read = 'path = "copy"\n'
    assert isinstance(open_dataset(far(tmp_path, read)), RemoteRows)
    (tmp_path / "copy").mkdir()
    (hub / "data/dev-00000-of-00001.parquet").rename(tmp_path / "copy/train.parquet")
    dataset = open_dataset(far(tmp_path, read))
    assert not isinstance(dataset, RemoteRows)
    assert len(dataset) == 3


def test_filters_read_their_own_column_alone(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    read = row_groups.read_row_group

    def noted(fs, group, columns=None, *, pictures=True):
        asked.append(list(columns))
        return read(fs, group, columns, pictures=pictures)

    monkeypatch.setattr(row_groups, "read_row_group", noted)
    condition = 'keep = [{column = "score", at_least = 4, at_most = 10}]\n'
    dataset = open_dataset(far(tmp_path, condition))
    pictures = ["before", "after", "text", "score"]
    assert asked == [pictures, *[["score"]] * 4]  # the first rows show what the columns hold
    assert [dataset[i].scores["score"] for i in range(len(dataset))] == [4, 5, 6, 7, 8, 9, 10]
    assert dataset.group_sizes == [1, 5, 1, 0]
    assert asked[5:] == [pictures] * 2


def test_memory_decides_how_many_groups_are_shuffled_together(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(far(tmp_path))
    assert dataset.window == 0
    monkeypatch.setattr("editkit.data.formats.RESIDENT_BYTES", 4 * dataset._rows.group_bytes[0] - 1)
    assert open_dataset(far(tmp_path)).window == 1


def test_the_hash_follows_the_files_and_what_is_read_of_them(tmp_path: Path, hub: Path) -> None:
    before = open_dataset(far(tmp_path)).info["sha256"]
    assert open_dataset(far(tmp_path)).info["sha256"] == before
    assert open_dataset(far(tmp_path, 'keep = [{column = "score", at_least = 4}]\n')).info["sha256"] != before
    path = hub / "data/train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 19), path)
    assert open_dataset(far(tmp_path)).info["sha256"] != before


def test_a_damaged_file_and_an_absent_split_are_one_line(tmp_path: Path, hub: Path) -> None:
    with pytest.raises(UserError, match=r'found no parquet files of the split "night"'):
        open_dataset(far(tmp_path, 'split = "night"\n'))
    path = hub / "data/train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"^hf://datasets/someone/edits@.*: cannot be read \([^\n]*$"):
        open_dataset(far(tmp_path))


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        open_dataset(far(tmp_path))
    said = str(refused.value)
    assert (
        "cannot be reached (HF_HUB_OFFLINE is set); expected a network, or a copy of it here: hf download someone/edits" in said
    )
    assert "--revision refs/convert/x" in said
    assert "\n" not in said


def test_evaluation_sets_are_looked_for_in_the_texts_alone(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(far(tmp_path))
    monkeypatch.setattr(type(dataset), "__getitem__", lambda *_: pytest.fail("read a whole example"))
    refuse_evaluation({"far": dataset}, KeptOut({}))
    assert list(dataset.texts()) == [(f"train {n}",) for n in range(20)]


def test_numbered_turns_of_parquet_files_are_all_read(tmp_path: Path) -> None:
    columns = {f"text_{n}": f"do {n}" for n in (1, 2, 3)} | {f"after_{n}": image("blue") for n in (1, 2, 3)}
    (tmp_path / "mine").mkdir()
    datasets.Dataset.from_list([{"before": image("red"), **columns}]).to_parquet(tmp_path / "mine/train.parquet")
    head = 'format = 1\nname = "mine"\nkind = "edit_pairs"\n[split]\ntest = 0.0\n[read]\nlayout = "hf"\npath = "mine"\n'
    turns = 'turns = {instruction = "text_{n}", target = "after_{n}", source = "original"}\n[read.columns]\nsource = "before"\n'
    (tmp_path / "mine.toml").write_text(head + turns)
    dataset = open_dataset(str(tmp_path / "mine.toml"))
    assert list(dataset.texts()) == [dataset[i].instructions for i in range(3)] == [("do 1",), ("do 2",), ("do 3",)]
    assert {dataset[i].source.open().tobytes() for i in range(3)} == {picture("red").tobytes()}


def test_check_looks_at_a_sample_of_what_is_far_away(
    workplace: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(importlib.import_module("editkit.train.check"), "FAR_SAMPLE", 4)
    where = far(workplace, 'test_split = "dev"\n')
    with pytest.raises(SystemExit) as left:
        main(["check", where, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert left.value.code in (0, 1)
    assert {s: f["examples"] for s, f in found["splits"].items()} == {"train": 4, "test": 3}
    assert {k for f in found["splits"].values() for k in f["kinds"]} <= {"split leak"}, "the splits share their pictures"
    assert found["spec"]["notes"] == ["read from afar: only the first 4 examples of a split are opened here"]
    assert found["spec"]["not read"] == ["big"]
