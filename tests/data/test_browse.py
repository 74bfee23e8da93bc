"""Choosing among the examples of a data set, and how little of it is in memory for that."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editkit.build import build
from editkit.build.rows import parquet_schema
from editkit.data.browse import ANY_FINDING, NO_FINDING, Shelf, Wanted
from editkit.data.decisions import Decision, Decisions
from editkit.data.doctor.findings import Finding, write_findings
from editkit.data.read import open_dataset
from tests.tiny import avatars_spec

SPEC = avatars_spec(40, 3, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("browse")
    (place / "small.toml").write_text(SPEC)
    return build(str(place / "small.toml"), str(place / "small"))


def shelf_of(folder: Path, tmp_path: Path, *found: tuple[int, str]) -> Shelf:
    dataset = open_dataset(str(folder), "train")
    path = tmp_path / "found.jsonl"
    findings = [Finding(kind, dataset[i].key, "so", i, "train") for i, kind in found]
    write_findings(path, {"train": str(dataset.info["sha256"])}, findings)
    return Shelf(dataset, "train", Decisions(tmp_path / "log.jsonl"), path)


def test_categories_are_those_of_the_pairs(folder: Path, tmp_path: Path) -> None:
    shelf = shelf_of(folder, tmp_path)
    pairs = [shelf.dataset[i] for i in range(40)]
    assert shelf.categories == sorted({p.category for p in pairs})
    for category in shelf.categories:
        assert shelf.find(Wanted(category)).tolist() == [i for i, p in enumerate(pairs) if p.category == category]
    assert shelf.find(Wanted()).tolist() == list(range(40))


def test_findings_choose(folder: Path, tmp_path: Path) -> None:
    shelf = shelf_of(folder, tmp_path, (3, "shift"), (3, "zoom"), (7, "shift"), (9, "duplicate"))
    assert shelf.finding_kinds == ["shift", "duplicate", "zoom"]
    assert shelf.find(Wanted(finding="shift")).tolist() == [3, 7]
    assert shelf.find(Wanted(finding=ANY_FINDING)).tolist() == [3, 7, 9]
    assert shelf.find(Wanted(finding=NO_FINDING)).tolist() == [i for i in range(40) if i not in (3, 7, 9)]


def test_findings_of_another_version_of_the_data_are_not_shown(folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(str(folder), "train")
    write_findings(tmp_path / "f.jsonl", {"train": "another"}, [Finding("shift", "a", "so", 1, "train")])
    shelf = Shelf(dataset, "train", Decisions(tmp_path / "log.jsonl"), tmp_path / "f.jsonl")
    assert not shelf.findings
    assert not shelf.was_checked
    assert shelf_of(folder, tmp_path).was_checked


def test_what_was_decided_chooses(folder: Path, tmp_path: Path) -> None:
    shelf = shelf_of(folder, tmp_path)
    for i, verdict, words in (
        (1, "accepted", ""),
        (2, "rejected", ""),
        (3, "accepted", "x"),
        (4, "rejected", ""),
        (4, "open", ""),
    ):
        shelf.decisions.add(Decision("train", shelf.dataset[i].key, verdict, words))
    shelf.decisions.add(Decision("test", shelf.dataset[5].key, "rejected"))
    chosen = {state: shelf.find(Wanted(state=state)).tolist() for state in ("accepted", "rejected", "rewritten", "undecided")}
    assert chosen.pop("undecided") == [0, *range(4, 40)]
    assert chosen == {"accepted": [1, 3], "rejected": [2], "rewritten": [3]}


def test_scores_order_and_those_without_one_are_left_out(folder: Path, tmp_path: Path) -> None:
    shelf = shelf_of(folder, tmp_path)
    shelf.scores = {"direction": np.array([0.5, np.nan, 0.1, *[0.3] * 37], np.float32)}
    assert shelf.find(Wanted(score="direction")).tolist() == [2, *range(3, 40), 0]
    assert shelf.find(Wanted(score="direction", highest_first=True)).tolist() == [0, *range(3, 40), 2]


def test_an_example_is_found_by_key_and_by_number(folder: Path, tmp_path: Path) -> None:
    shelf = shelf_of(folder, tmp_path)
    assert shelf.number_of(shelf.dataset[7].key) == 7
    assert [shelf.number_of(asked) for asked in ("1", " 40 ", "41", "0", "-1", "x", "")] == [
        0,
        39,
        None,
        None,
        None,
        None,
        None,
    ]


def test_a_large_set_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    """20,000 pairs with two pictures of 20 kB: 800 MB, of which some MB are read."""
    big = tmp_path / "big"
    (big / "data").mkdir(parents=True)
    row = pq.read_table(next((folder / "data").glob("train*"))).slice(0, 1).to_pylist()[0]
    row["source"] = row["target"] = {"bytes": bytes(20_000), "path": None}
    table = pa.Table.from_pylist([row], parquet_schema("edit_pairs"))
    shards = {}
    for number in range(2):
        name = f"train-{number:05d}-of-00002.parquet"
        with pq.ParquetWriter(big / "data" / name, table.schema, compression="zstd") as writer:
            for start in range(0, 10_000, 1000):
                keys = pa.array([f"p{number}-{start + i}" for i in range(1000)])
                rows = pa.concat_tables([table] * 1000).combine_chunks()
                writer.write_table(rows.set_column(0, "key", keys))
        shards[name] = ""
    manifest = {"format": 1, "kind": "edit_pairs", "name": "big", "counts": {"train": 20_000}, "shards": shards, "sha256": "x"}
    (big / "dataset.json").write_text(json.dumps(manifest))
    dataset = open_dataset(str(big), "train")
    tracemalloc.start()
    shelf = Shelf(dataset, "train", Decisions(tmp_path / "log.jsonl"), tmp_path / "none.jsonl")
    assert shelf.number_of("p1-9999") == 19_999
    assert len(shelf.find(Wanted(shelf.categories[0]))) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert dataset[19_999].key == "p1-9999"
