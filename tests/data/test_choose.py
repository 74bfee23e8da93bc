"""Parts and views of data sets: what a recipe's `categories` and `last_pictures` leave of plan traces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from editkit.data.choose import open_chosen
from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.lab.scene_prompts import TAGS
from editkit.recipe.schema import Data
from tests.tiny import TRACES_SPEC


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("traces")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("EDITKIT_CACHE", str(place / "cache"))
        Path("traces.toml").write_text(TRACES_SPEC)
        open_dataset("traces.toml")
    return str(next((place / "data").iterdir()))


def data(where: str, **more: object) -> Data:
    return Data(train=where, resolution=32, **more)  # ty: ignore


def test_categories_are_those_that_begin_so(traces: str) -> None:
    whole = open_dataset(traces, "train")
    for wanted in (["multi-turn"], ["text-side", "image-side, aligned"]):
        chosen = open_chosen(data(traces, categories=wanted), traces, "train")
        expected = [t.key for t in (whole[i] for i in range(len(whole))) if t.category.startswith(tuple(wanted))]
        assert [chosen[i].key for i in range(len(chosen))] == expected
        assert 0 < len(expected) < len(whole)
    with pytest.raises(IndexError):
        _ = chosen[len(chosen)]


def test_a_limit_counts_before_anything_is_left_out(traces: str) -> None:
    chosen = open_chosen(data(traces, categories=["multi-turn"], limit=10), traces, "train")
    first = open_dataset(traces, "train", limit=10)
    assert len(chosen) == sum(first[i].category.startswith("multi-turn") for i in range(10))
    assert len(open_chosen(data(traces, limit=10), traces, "test")) == 12  # of training alone


def test_last_pictures_are_those_of_finished_traces_with_their_prompts(traces: str) -> None:
    whole = open_dataset(traces, "train")
    finished = [t for t in (whole[i] for i in range(len(whole))) if t.final is not None]
    chosen = open_chosen(data(traces, last_pictures=True), traces, "train")
    assert chosen.info["kind"] == "captioned_images"
    assert len(finished) == len(chosen) < len(whole)
    for n, trace in enumerate(finished):
        found = chosen[n]
        assert (found.key, found.captions, found.licence) == (trace.key, (trace.prompt,), trace.licence)
        assert np.array_equal(np.asarray(found.image.open()), np.asarray(trace.steps[-1].sketch.open()))
        assert json.loads(found.facts["geneval"])["tag"] in TAGS
        assert json.loads(found.facts["graph"])["objects"]
    both = open_chosen(data(traces, last_pictures=True, categories=["image-side"], limit=20), traces, "train")
    assert {n.category.split(",")[0] for n in finished if n.key in {both[i].key for i in range(len(both))}} == {"image-side"}


def test_what_leaves_nothing_is_refused(traces: str) -> None:
    with pytest.raises(UserError, match=r"its categories are .*multi-turn: additive"):
        open_chosen(data(traces, categories=["sketches"]), traces, "train")
    with pytest.raises(UserError, match="found no finished trace"):
        open_chosen(data(traces, categories=["text-side"], last_pictures=True), traces, "train")
