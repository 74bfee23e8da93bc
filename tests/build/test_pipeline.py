"""Building a data set: all of it or nothing, and never over something that is not ours."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from editkit.build import build
from editkit.build.pipeline import builder_of
from editkit.data.read import open_dataset
from editkit.data.spec import load_spec
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


def test_an_unknown_engine_is_refused(spec: str) -> None:
    with pytest.raises(UserError, match='--engine: found "dask"'):
        build(spec, None, 0, "dask")


def test_a_builder_is_small_enough_to_travel_to_many_processes(spec: str) -> None:
    import pickle

    builder = builder_of(*load_spec(Path(spec)))
    assert len(pickle.dumps(builder)) < 1000
