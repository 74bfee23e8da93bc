"""The whole round on planted faults: every kind is found where it was planted, and hardly anything elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from editkit.data.doctor.diagnose import Diagnosis, diagnose
from editkit.data.doctor.exam import RECORD
from editkit.data.doctor.findings import KINDS
from editkit.data.doctor.records import Records
from editkit.data.examples import EditPair
from editkit.lab.avatar_edits import sample_edits
from tests.bench.faults import COPIES, FAULTS, InMemory, plant

PAIRS = 420


@pytest.fixture(scope="module")
def sound() -> tuple[list[EditPair], list[EditPair], list[EditPair]]:
    return (
        sample_edits(PAIRS, seed=21, split="train", size=32),
        sample_edits(30, seed=21, split="test", size=32),
        sample_edits(30, seed=22, split="test", size=32),
    )


def diagnosed(train: list[EditPair], test: list[EditPair], evaluation: list[EditPair], workers: int = 1) -> Diagnosis:
    splits = {"train": InMemory("planted", "train", train), "test": InMemory("planted", "test", test)}
    sets = {"evaluation": [InMemory("evaluation", "test", evaluation)]}
    return diagnose(splits, evaluation_sets=sets, workers=workers)


def test_planted_faults_are_found_and_sound_pairs_are_let_be(sound: tuple[list[EditPair], ...]) -> None:
    train, test, evaluation = sound
    faulty, planted = plant(train, test, evaluation, 0.012, 3)
    diagnosis = diagnosed(faulty, test, evaluation)
    named: dict[int, set[str]] = {}
    for finding in (*diagnosis.items, *diagnosis.notes):
        if finding.split != "train":
            continue
        assert finding.category == faulty[finding.index].category
        assert finding.key == faulty[finding.index].key
        named.setdefault(finding.index, set()).add(finding.kind)
    missed = [(kind, faulty[i].key) for i, kind in planted.items() if kind not in named.get(i, ()) and kind != "swapped"]
    assert len(missed) <= 3, missed  # of 90; 32 px are few
    assert {kind for _, kind in planted.items()} == {*FAULTS, *COPIES} == set(KINDS) - {"count"}  # which compares with a spec
    alarms = {i: found for i, found in named.items() if i not in planted and found != {"swapped"}}
    assert len(alarms) <= 4, alarms
    assert diagnosis.categories["train"].total() == PAIRS


def test_several_processes_find_what_one_finds(sound: tuple[list[EditPair], ...]) -> None:
    train, test, evaluation = sound
    faulty, _ = plant(train[:120], test, evaluation, 0.02, 3)
    one, two = (diagnosed(faulty, test, evaluation, workers) for workers in (1, 2))
    assert one.items == two.items
    assert one.notes == two.notes


def test_too_few_pairs_say_nothing_of_the_direction(sound: tuple[list[EditPair], ...]) -> None:
    diagnosis = diagnosed(sound[0][:40], sound[1], sound[2])
    assert diagnosis.facts["direction"]["decided"] == 0
    assert "not known" in diagnosis.facts["direction"]["why"]


def test_an_empty_data_set_has_nothing_wrong() -> None:
    empty = InMemory("empty", "train", [])
    assert diagnose({"train": empty}).items == []


def test_records_lie_in_a_file_that_goes_away() -> None:
    with Records() as records:
        first, second = np.zeros(3, RECORD), np.ones(2, RECORD)
        records.append("train", first)
        records.append("test", second)
        records.append("test", second)
        assert len(records.rows()) == 7
        assert [records.place(row) for row in (0, 2, 3, 6)] == [("train", 0), ("train", 2), ("test", 0), ("test", 3)]
        folder = Path(records._folder.name)
        assert folder.is_dir()
    assert not folder.exists()
