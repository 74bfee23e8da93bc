"""Building a data set: all of it or nothing, and never over something that is not ours."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from PIL import Image

from editkit.build import build, pipeline
from editkit.build.engine import LocalEngine
from editkit.build.pipeline import builder_of
from editkit.build.rows import parquet_schema, to_row
from editkit.build.write import write_split
from editkit.data.read import open_dataset
from editkit.data.spec import BUILDER_VERSIONS, load_spec
from editkit.errors import UserError
from editkit.lab.avatar_builder import AvatarBuilder
from tests.train.test_run import SPEC


@pytest.fixture
def spec(workplace: Path) -> str:
    (workplace / "small.toml").write_text(SPEC)
    return "small.toml"


def test_a_built_set_has_its_counts_licences_card_and_contact_sheet(spec: str) -> None:
    folder = build(spec)
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["counts"] == {"train": 12, "test": 4}
    assert sum(entry["count"] for entry in facts["licences"].values()) == 16
    assert all(entry["credit"] for entry in facts["licences"].values())
    assert sum(facts["categories"]["train"].values()) == 12
    card = (folder / "README.md").read_text()
    assert facts["sha256"] in card
    for licence in facts["licences"]:
        assert licence in card
    assert "![a sample](contact_sheet.png)" in card
    assert Image.open(folder / "contact_sheet.png").width > 400


def test_any_size_can_be_asked_for(spec: str) -> None:
    Path(spec).write_text(SPEC.replace("size = 32", "size = 90"))
    build(spec)
    pair = open_dataset(spec)[0]
    assert pair.source.open().size == pair.target.open().size == pair.mask.open().size == (90, 90)


def test_a_limit_takes_the_first_ones(spec: str) -> None:
    build(spec, "all")
    build(spec, "few", 3)
    few, every = open_dataset("few"), open_dataset("all")
    assert len(few) == 3
    assert [few[i].source.read_bytes() for i in range(3)] == [every[i].source.read_bytes() for i in range(3)]


def test_what_is_not_a_data_set_is_not_replaced(spec: str) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="found something that is not a data set"):
        build(spec, "mine")
    assert Path("mine/thesis.txt").read_text() == "years of work"
    build(spec, "old")
    build(spec, "old", 2)
    assert len(open_dataset("old")) == 2


def test_a_build_that_fails_leaves_the_old_one_whole(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build(spec)
    before = (folder / "dataset.json").read_text()

    def fail(self: AvatarBuilder) -> dict[str, str]:
        raise RuntimeError("no credits")

    monkeypatch.setattr(AvatarBuilder, "credits", fail)
    with pytest.raises(RuntimeError, match="no credits"):
        build(spec)
    assert (folder / "dataset.json").read_text() == before
    assert len(open_dataset(spec)) == 12


def test_a_set_of_another_spec_is_not_taken_for_this_one(spec: str) -> None:
    build(spec)
    Path(spec).write_text(SPEC.replace("seed = 3", "seed = 4"))
    with pytest.raises(UserError, match="was built from another version"):
        open_dataset(spec)


def test_a_set_of_an_older_builder_is_taken_and_said_to_be_one(
    spec: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = build(spec)
    capsys.readouterr()
    open_dataset(spec)
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(BUILDER_VERSIONS, "avatars", 3)
    assert len(open_dataset(spec)) == 12
    said = capsys.readouterr().out
    assert said.startswith(f"{folder}: was built by version 1 of its builder, version 3 makes another; ")
    assert f'"editkit build {spec}" builds it anew' in said
    build(spec)
    capsys.readouterr()
    open_dataset(spec)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('builder = "avatars"', 'builder = "avatar"'), 'found builder = "avatar"; expected one of avatars'),
        (("size = 32", "sise = 32"), 'did you mean "size"'),
        (("size = 32", "size = 0"), "size"),
        (("train = 12", 'train = "many"'), "train"),
    ],
)
def test_a_mistake_in_the_spec_is_named_before_anything_is_built(change: tuple[str, str], words: str, spec: str) -> None:
    Path(spec).write_text(SPEC.replace(*change))
    with pytest.raises(UserError, match=re.escape(words)):
        build(spec)
    assert not Path("data").exists()


def test_a_shard_is_what_the_rows_give_when_they_are_written_at_once(spec: str) -> None:
    Path(spec).write_text(SPEC.replace("train = 12", "train = 230").replace("size = 32", "size = 16"))
    folder = build(spec)
    loaded, source = load_spec(Path(spec))
    builder = builder_of(loaded, source)
    rows = [to_row(builder.make("train", i)) for i in range(230)]
    table = pa.Table.from_pylist(rows, parquet_schema("edit_pairs"))
    pq.write_table(table, "at-once.parquet", row_group_size=100, compression="zstd")
    assert (folder / "data" / "train-00000-of-00001.parquet").read_bytes() == Path("at-once.parquet").read_bytes()


def test_several_shards_hold_the_rows_in_order(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editkit.build.pipeline.write_split", functools.partial(write_split, rows_per_shard=5))
    folder = build(spec)
    assert [p.name for p in sorted((folder / "data").glob("train*"))] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    assert [open_dataset(spec)[i].key for i in range(12)] == [f"train-{i:06d}" for i in range(12)]


def test_a_stopped_build_goes_on_and_leaves_nothing_behind(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(spec, "whole")

    def stop(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(pipeline, "write_card", stop)
        with pytest.raises(KeyboardInterrupt):
            build(spec, "stopped")
    assert not Path("stopped").exists()
    there = {p: p.stat().st_mtime_ns for p in Path("stopped.staging").rglob("*.parquet")}
    assert len(there) == 4  # a part and a shard for each split
    monkeypatch.setattr(LocalEngine, "run", None)  # nothing is left to make
    stopped = build(spec, "stopped")
    names = [p.relative_to(whole) for p in whole.rglob("*") if p.is_file()]
    assert all((whole / n).read_bytes() == (stopped / n).read_bytes() for n in names)
    assert not Path("stopped.staging").exists()


def test_a_set_is_built_by_one_process_at_a_time(spec: str) -> None:
    Path("data").mkdir()
    with FileLock("data/.run.lock"), pytest.raises(UserError, match="another process is building it"):
        build(spec, "data/run")
    build(spec, "data/run")


def test_an_unknown_engine_is_refused(spec: str) -> None:
    with pytest.raises(UserError, match='--engine: found "dask"'):
        build(spec, None, 0, "dask")


def test_a_builder_is_small_enough_to_travel_to_many_processes(spec: str) -> None:
    import pickle

    builder = builder_of(*load_spec(Path(spec)))
    assert len(pickle.dumps(builder)) < 1000
