"""Sampled trajectories as traces that a symbolic critic can judge, and that sampling goes on where it was stopped."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from editkit.build.self_sampled import Sampled
from editkit.data.trace_files import read_traces
from editkit.data.traces import PlanTrace, inspection_text, parse_plan
from editkit.evaluate.sample_traces import sample_traces, sampled_trace
from editkit.lab.scene_traces import TEXT_RIGHT, TEXT_WRONG
from editkit.models.generator import Drawn, Said, load_planner
from editkit.models.rollouts import Beginning, Rollout, Rollouts
from tests.planners import LEARNED

SCENE = {
    "split": "train", "geneval": {"tag": "colors", "include": [{"class": "star", "count": 1, "color": "blue"}], "prompt": ""}
}  # fmt: skip
ASKED = [PlanTrace(f"train-{n}", LEARNED.prompt, LEARNED.steps, LEARNED.final, SCENE, licence="CC0 1.0") for n in range(3)]


@pytest.fixture(scope="module")
def rollouts(by_heart: Path) -> Rollouts:
    return Rollouts(load_planner(str(by_heart)), 4)


def test_what_was_sampled_is_judged_by_the_builder(rollouts: Rollouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample_traces(rollouts, ASKED, tmp_path, {"model": "by heart"}, each=2) == 6
    found = list(read_traces(tmp_path))
    assert [t.key for t in found] == [f"train-{n}-{k}" for n in range(3) for k in range(2)]
    assert {(t.prompt, t.licence, t.scene["split"]) for t in found} == {(LEARNED.prompt, "CC0 1.0", "train")}
    facts = [json.loads(t.provenance) for t in found]
    assert len({f["seed"] for f in facts}) == 6
    assert facts[0]["model"] == "by heart"
    assert (found[0].steps[0].ins, found[0].steps[0].des) == parse_plan("<ins>draw a blue star</ins><des>a blue star</des>")
    monkeypatch.setattr("editkit.build.self_sampled._tells_of_held_out", lambda des: False)  # as training never tells of it
    judged = Sampled(tmp_path, 0, "train")
    assert judged.traces == 6
    assert judged.count(TEXT_RIGHT) + judged.count(TEXT_WRONG) >= 6
    roll = rollouts.roll([Beginning(LEARNED.prompt, facts[3]["seed"])])[0]
    kept = found[3].steps[0].sketch
    assert kept is not None
    assert np.abs(np.asarray(kept.open(), int) - np.asarray(roll.pictures[0].picture, int)).max() <= 1


def test_it_goes_on_where_it_was_stopped(rollouts: Rollouts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample_traces(rollouts, ASKED, tmp_path / "whole", {}, each=1, chunk=1)
    assert sample_traces(rollouts, ASKED, tmp_path / "part", {}, each=1, chunk=1, enough=lambda _: True) == 1
    asked: Counter[str] = Counter()
    roll = rollouts.roll
    monkeypatch.setattr(rollouts, "roll", lambda begun: asked.update(b.prompt for b in begun) or roll(begun))
    assert sample_traces(rollouts, ASKED, tmp_path / "part", {}, each=1, chunk=1) == 3
    assert sum(asked.values()) == 2
    whole, part = (list(read_traces(tmp_path / name)) for name in ("whole", "part"))
    assert [(t.key, t.provenance) for t in whole] == [(t.key, t.provenance) for t in part]


def test_what_cannot_be_read_stands_as_it_is_and_what_was_said_is_left_out(rollouts: Rollouts) -> None:
    drawn = rollouts.roll([Beginning(LEARNED.prompt, 5)])[0].pictures[0]
    assert isinstance(drawn, Drawn)
    seen = LEARNED.steps[0].inspection
    assert seen is not None
    parts = [Said("<ins>draw\na star"), drawn, Said(inspection_text(seen)), drawn]
    found = sampled_trace(Rollout(Beginning("", 0), parts), ASKED[0], "k", {})
    assert found is not None
    assert [(s.ins, s.des, s.inspection) for s in found.steps] == [("draw a star", "draw a star", None)]
    assert sampled_trace(Rollout(Beginning("", 0), [Said("nothing")]), ASKED[0], "k", {}) is None
