"""Plan traces of the scenes world: what is told is what is drawn, what is rejected is wrong, and what mends it does."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from editkit.build import pipeline
from editkit.build.pipeline import build_spec
from editkit.build.proportions import largest_remainder, spread
from editkit.build.self_sampled import Sampled
from editkit.data.pictures import Picture, png_bytes
from editkit.data.read import open_dataset
from editkit.data.trace_files import read_conversations, to_edit_pairs, write_conversations, write_traces
from editkit.data.traces import PlanStep, PlanTrace, check_trace, parse_plan, plan_text
from editkit.errors import UserError
from editkit.lab.scene_art import COLOURS
from editkit.lab.scene_traces import (
    CELLS,
    IMAGE_RIGHT,
    IMAGE_WRONG,
    MULTI_TURN,
    TEXT_RIGHT,
    TEXT_WRONG,
    Draft,
    DraftStep,
    RouteOptions,
    draw_trace,
)
from editkit.lab.scenes import Scene, Thing, is_held_out, relation, render
from editkit.lab.trace_check import NOTHING_YET, agrees, check_plan
from editkit.lab.trace_reading import perform, read_commands, read_description
from editkit.lab.trace_routes import MAX_STEPS
from tests.build.here import Here

SPEC = """\
format = 1
name = "small"
kind = "plan_traces"
licence = "as stated"
[build]
builder = "plan_refine"
train = {train}
test = {test}
size = 32
seed = 5
"""
seeds, splits = st.integers(0, 2**31), st.sampled_from(["train", "test"])
few = settings(max_examples=40)


def shown(step: DraftStep) -> tuple[Thing, ...]:
    assert step.things is not None
    return step.things


def bag(things: tuple[Thing, ...]) -> Counter[tuple[str, str]]:
    return Counter((t.kind, t.colour) for t in things)


def short_of(asked: Mapping[str, Any], things: tuple[Thing, ...]) -> dict[str, int]:
    """Class -> how many of those that are asked for are not there."""
    return {e["class"]: n for e in asked["include"] if (n := e["count"] - sum(t.kind == e["class"] for t in things)) > 0}


def check_deferred(draft: Draft, step: DraftStep, there: tuple[Thing, ...]) -> None:
    """What is still to come is in the final scene, and not in what is there; and all of it is named."""
    assert step.inspection is not None
    missing = short_of(draft.asked, there)
    assert len(step.inspection.deferred) == len(missing)
    for kind in missing:
        assert any(re.search(rf"\b{kind}(s|es)?$", item) for item in step.inspection.deferred)
        assert any(t.kind == kind for t in draft.scene.things)


@few
@given(seeds, splits)
def test_every_chain_ends_in_its_scene_and_every_description_is_what_is_drawn(index: int, split: str) -> None:
    draft = draw_trace(1, split, index, MULTI_TURN)
    assert draft.finished
    assert len(draft.steps) <= MAX_STEPS
    assert sorted(map(repr, shown(draft.steps[-1]))) == sorted(map(repr, draft.scene.things))
    before: tuple[Thing, ...] = ()
    for step in draft.steps:
        told = read_description(step.des)
        assert told.bag == bag(shown(step))
        where = {t.kind: t for t in shown(step)}
        assert all(relation(where[r.kind], where[r.other]) == r.name for r in told.relations)
        assert perform(bag(before), read_commands(step.ins)) == bag(shown(step))
        assert parse_plan(plan_text(PlanStep(step.ins, step.des, None))) == (step.ins, step.des)
        before = shown(step)


@few
@given(seeds)
def test_additive_chains_only_grow_and_detours_do_not(index: int) -> None:
    straight = draw_trace(1, "train", index, MULTI_TURN, RouteOptions(detours=0.0))
    for earlier, later in zip(straight.steps, straight.steps[1:], strict=False):
        assert set(shown(earlier)) < set(shown(later))
    around = draw_trace(1, "train", index, MULTI_TURN, RouteOptions(detours=1.0, learn_astray=False))
    final = set(shown(around.steps[-1]))
    astray = [not set(shown(step)) <= final for step in around.steps]
    assert any(astray)
    setting_out = [a and not b for a, b in zip(astray, [False, *astray], strict=False)]
    for step, out in zip(around.steps, setting_out, strict=True):
        assert not (out and (step.need_loss.plan or step.need_loss.sketch))


@few
@given(seeds, splits, st.sampled_from([TEXT_RIGHT, TEXT_WRONG]))
def test_a_plan_is_rejected_where_it_contradicts_the_prompt_and_its_correction_mends_it(
    index: int, split: str, cell: str
) -> None:
    draft = draw_trace(2, split, index, cell)
    last, earlier = draft.steps[-1], draft.steps[:-1]
    seen = last.inspection
    assert seen is not None
    assert seen.on == "plan"
    assert seen.ok == (cell == TEXT_RIGHT)
    assert not any((last.need_loss.plan, last.need_loss.sketch))
    assert last.need_loss.inspection
    assert not any(flag for step in earlier for flag in (step.need_loss.plan, step.need_loss.sketch))
    start = last.things if last.things is not None else shown(earlier[-1]) if earlier else ()
    check_deferred(draft, last, start)
    if last.things is not None:
        assert agrees(last.des, last.things)
    if not seen.ok:
        mended = perform(bag(start), read_commands(seen.refine))
        assert mended is not None
        for (kind, colour), count in mended.items():
            entry = next(e for e in draft.asked["include"] if e["class"] == kind)
            assert sum(n for (k, _), n in mended.items() if k == kind) <= entry["count"]
            assert colour in ("", entry.get("color", colour)) or count == 0
        for command in read_commands(seen.refine):
            if command.what == "move" and command.beside and command.old:
                entry = next(e for e in draft.asked["include"] if e["class"] == command.old.kind)
                other = draft.asked["include"][entry["position"][1]]["class"]
                assert (command.beside[0], command.beside[1].kind) == (entry["position"][0], other)


@few
@given(seeds, splits)
def test_a_faulty_drawing_is_not_its_plan_and_the_correction_makes_it_so(index: int, split: str) -> None:
    draft = draw_trace(3, split, index, IMAGE_WRONG)
    faulty, mended = draft.steps[-2:]
    assert faulty.inspection is not None
    assert not faulty.inspection.ok
    assert faulty.inspection.on == "image"
    assert (faulty.need_loss.sketch, faulty.need_loss.plan, faulty.need_loss.inspection) == (False, False, True)
    assert mended.need_loss.sketch
    assert mended.need_loss.plan
    assert not agrees(faulty.des, shown(faulty))
    assert agrees(mended.des, shown(mended))
    assert agrees(faulty.des, shown(mended))
    for words in (faulty.inspection.refine, mended.ins):
        commands = read_commands(words)
        assert perform(bag(shown(faulty)), commands) == bag(shown(mended))
        for command in commands:
            if command.what == "move" and command.beside and command.old:
                moved = next(t for t in shown(mended) if t not in shown(faulty))
                others = [t for t in shown(mended) if t.kind == command.beside[1].kind and t != moved]
                assert [relation(moved, other) for other in others] == [command.beside[0]]
                was = next(t for t in shown(faulty) if t not in shown(mended))
                assert relation(was, others[0]) != command.beside[0]  # it says something new
    check_deferred(draft, faulty, shown(mended))
    assert draft.finished == (not short_of(draft.asked, shown(mended)))


@few
@given(seeds, splits)
def test_an_aligned_drawing_is_its_plan(index: int, split: str) -> None:
    draft = draw_trace(3, split, index, IMAGE_RIGHT)
    last = draft.steps[-1]
    assert last.inspection is not None
    assert last.inspection.ok
    assert agrees(last.des, shown(last))
    check_deferred(draft, last, shown(last))


@few
@given(seeds, st.sampled_from(list(CELLS)))
def test_no_training_picture_shows_a_held_out_composition_or_a_test_scene(index: int, cell: str) -> None:
    draft = draw_trace(4, "train", index, cell)
    for step in draft.steps:
        if step.things:
            scene = Scene(step.things, draft.scene.ground)
            assert not scene.unseen
            assert scene.split == "train"
    assert draw_trace(4, "test", index, cell).scene.split == "test"


@given(st.integers(0, 3000))
@example(62_213)
@settings(max_examples=30)
def test_the_proportions_are_exact_and_every_beginning_has_them(total: int) -> None:
    found = largest_remainder(total, CELLS)
    whole = sum(CELLS.values())
    assert sum(found.values()) == total
    for cell, weight in CELLS.items():
        assert abs(found[cell] - total * weight / whole) < 1
    # what was rounded up has no smaller remainder than what was not
    up = [total * w % whole for c, w in CELLS.items() if found[c] > total * w // whole]
    down = [total * w % whole for c, w in CELLS.items() if found[c] == total * w // whole]
    assert not up or min(up) >= max(down, default=0)
    order, given_ = spread(found), Counter()
    for place, cell in enumerate(order, 1):
        given_[cell] += 1
        if total < 500:
            assert all(abs(given_[c] - place * n / total) < 1 for c, n in found.items())
    assert given_ == Counter(found)
    if total == whole:
        assert found == CELLS


@pytest.fixture
def spec(workplace: Path) -> Path:
    Path("small.toml").write_text(SPEC.format(train=60, test=10))
    return Path("small.toml")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this spec gives."""
    place = tmp_path_factory.mktemp("built")
    (place / "small.toml").write_text(SPEC.format(train=60, test=10))
    return build_spec(place / "small.toml", place / "small", engine=Here())


def test_a_built_set_opens_everywhere_and_goes_to_other_trainers(built: Path, workplace: Path) -> None:
    folder = built
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["counts"] == {"train": 60, "test": 10}  # the filter found nothing
    cells: Counter[str] = Counter()
    for category, count in facts["categories"]["train"].items():
        cells[category.partition(":")[0]] += count
    assert dict(cells) == largest_remainder(60, CELLS)
    card = (folder / "README.md").read_text()
    assert all(f"| {cell} |" in card for cell in cells)
    assert "write_conversations" in card
    assert Image.open(folder / "contact_sheet.png").width > 400

    loaded = load_dataset(str(folder), split="train", cache_dir="hf")
    assert loaded[0]["steps"][0]["image"].size == (32, 32)
    traces = open_dataset(str(folder))
    assert [t["key"] for t in loaded] == [traces[i].key for i in range(60)] == [f"train-{i:06d}" for i in range(60)]
    for trace in (traces[i] for i in range(60)):
        check_trace(trace)
        came = json.loads(trace.provenance)
        assert came["teacher"]["name"] == "scenes"
        assert came["licence"] == trace.licence
        assert came["seed"] == 5
        pairs = to_edit_pairs(trace)
        assert all(len(pair.instructions) >= 1 for pair in pairs)
    drawn = draw_trace(5, "train", 0, MULTI_TURN, RouteOptions())
    assert traces[0].prompt == drawn.prompt
    wanted = np.asarray(render(Scene(shown(drawn.steps[0]), drawn.scene.ground), 32))
    assert np.array_equal(np.asarray(traces[0].steps[0].sketch.open()), wanted)
    assert write_conversations(Path("traces.parquet"), traces) == 60
    assert [t.prompt for t in read_conversations(Path("traces.parquet"))] == [traces[i].prompt for i in range(60)]
    assert len(list(traces.texts())) == 60


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_bytes_however_often_it_was_stopped(built: Path, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editkit.build.plan_refine.PlanTraces.part_size", 10)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as changed:
        changed.setattr(pipeline, "write_split", stop)
        with pytest.raises(KeyboardInterrupt):
            build_spec(spec, Path("again"), engine=Here())
    work = Path("again.staging/work")
    (plans,), (filtered,) = work.glob("0-plan-*"), work.glob("2-filter-*")
    (filtered / "train-000003.parquet").unlink()  # as a kill leaves it: released pictures, half a part
    for stage in ("0-plan-*", "1-sketch-*"):
        for path in work.glob(f"{stage}/train-000003.*"):
            path.unlink()
    (filtered / "train-000003.parquet.77.half").write_bytes(b"PAR1")
    there = {p: p.stat().st_mtime_ns for p in filtered.glob("*.parquet")}
    assert len(there) == 6
    assert plans.is_dir()
    assert files(build_spec(spec, Path("again"), engine=Here())) == files(built)


def test_a_limit_takes_the_first_ones(built: Path, spec: Path) -> None:
    every, some = open_dataset(str(built)), open_dataset(str(build_spec(spec, Path("few"), 7, Here())))
    assert len(some) == 7
    assert [plan_text(s) for t in some for s in t.steps] == [plan_text(s) for i in range(7) for s in every[i].steps]


# ------- what a half-trained model sampled


def sampled_folder(folder: Path, count: int) -> list[PlanTrace]:
    """Trajectories such as a model writes: right ones, and ones with a mistake in the last step or nonsense in the first."""
    made = []
    for i in range(count):
        draft = draw_trace(9, "train", i, MULTI_TURN, RouteOptions(detours=0.0))
        sketches = [Picture(data=png_bytes(render(Scene(shown(s), draft.scene.ground), 32))) for s in draft.steps]
        steps = [PlanStep(s.ins, s.des, p) for s, p in zip(draft.steps, sketches, strict=True)]
        if i % 3 == 1:
            steps[0] = replace(steps[0], ins="add a blorp", des="a blorp and a red")  # and goes on
        if i % 3 == 2:
            steps[-1] = replace(steps[-1], des=steps[0].des if len(steps) > 1 else "two black cats")
        scene = {"split": "train", "geneval": dict(draft.asked)}
        about = {"licence": "CC0 1.0", "provenance": json.dumps({"checkpoint": "step-400"})}
        made.append(PlanTrace(f"sample-{i}", draft.prompt, tuple(steps), steps[-1].sketch, scene, **about))
    write_traces(folder, made)
    return made


def test_sampled_steps_take_the_place_of_planted_ones(spec: Path) -> None:
    made = {trace.key: trace for trace in sampled_folder(Path("sampled"), 30)}
    spec.write_text(SPEC.format(train=60, test=10) + 'critiques = { sampled = "sampled" }\n')
    build_spec(spec, None, engine=Here())
    count: Counter[str] = Counter()
    for split in ("train", "test"):
        dataset = open_dataset(str(spec), split)
        for trace in (dataset[i] for i in range(len(dataset))):
            cell = trace.category.partition(":")[0]
            count[f"{split} {cell}"] += 1
            came = json.loads(trace.provenance)
            if cell not in (TEXT_RIGHT, TEXT_WRONG) or split == "test":
                assert came["teacher"]["name"] == "scenes"
                continue
            parent = made[came["parent"]]
            assert came["sampled"] == {"checkpoint": "step-400"}
            assert [(s.ins, s.des) for s in trace.steps] == [(s.ins, s.des) for s in parent.steps[: came["step"]]]
            for step, was in zip(trace.steps, parent.steps, strict=False):
                if step.sketch is not None:
                    assert was.sketch is not None
                    assert step.sketch.read_bytes() == was.sketch.read_bytes()
            assert [s.inspection is not None for s in trace.steps] == [False] * (len(trace.steps) - 1) + [True]
            assert trace.steps[-1].inspection.ok == (cell == TEXT_RIGHT)
            assert not any("blorp" in step.ins for step in trace.steps[:-1])  # nothing is judged behind a mistake
            if "blorp" in trace.steps[-1].ins:
                assert came["faults"] == ["instruction", "description"]
                assert trace.steps[-1].sketch is None
    assert {c.removeprefix("train "): n for c, n in count.items() if c.startswith("train")} == largest_remainder(60, CELLS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('critiques = { sampled = "nowhere" }', "nowhere: found no traces.jsonl; expected a folder of plan traces"),
        ('critiques = { sampled = "sampled" }\n', r'steps for "text-side, \w+" in 6 traces .* sample more, or ask for fewer'),
        ('critiques = { sampld = "sampled" }', "sampl"),
        ('critiques = "exact"', "symbolic"),
        ("detours = 1.5", "detours"),
    ],
)
def test_a_mistake_is_one_line(spec: Path, change: str, words: str) -> None:
    sampled_folder(Path("sampled"), 6)
    spec.write_text(SPEC.format(train=600, test=10) + change + "\n")
    with pytest.raises(UserError, match=words):
        build_spec(spec, None, engine=Here())


def test_trajectories_without_a_scene_are_refused(spec: Path) -> None:
    made = sampled_folder(Path("sampled"), 3)
    write_traces(Path("sampled"), [replace(trace, scene={}) for trace in made])
    spec.write_text(SPEC.format(train=6, test=0) + 'critiques = { sampled = "sampled" }\n')
    with pytest.raises(UserError, match=r"sample-0: found no scene.split and scene.geneval"):
        build_spec(spec, None, engine=Here())


def test_sampled_steps_that_tell_of_a_held_out_composition_are_left_out(workplace: Path) -> None:
    made = sampled_folder(Path("sampled"), 4)
    before = Sampled(Path("sampled"), 0, "train")
    colour = next(c for c in COLOURS if is_held_out("colour", "apple", c))
    words = f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} apple"
    spoiled = replace(made[0], steps=(replace(made[0].steps[0], ins=f"draw {words}", des=words), *made[0].steps[1:]))
    write_traces(Path("sampled"), [spoiled, *made[1:]])
    after = Sampled(Path("sampled"), 0, "train")
    assert sum(before.count(cell) - after.count(cell) for cell in (TEXT_RIGHT, TEXT_WRONG)) == len(made[0].steps)


ASKED = {
    "tag": "multi",
    "include": [
        {"class": "apple", "count": 1, "color": "red"},
        {"class": "fish", "count": 1, "position": ["left of", 0]},
        {"class": "bell", "count": 2},
    ],
}


@pytest.mark.parametrize(
    ("before", "ins", "des", "faults", "deferred", "refine"),
    [
        ("", "draw a red apple in the centre", "a red apple", (), ("a fish", "two bells"), ""),
        ("", "Draw a red apple in the centre.", "A picture of a red apple.", (), ("a fish", "two bells"), ""),
        ("", "draw a blue apple", "a blue apple", ("colour",), ("a fish", "two bells"), r"apple.*red|red.*apple"),
        ("a red apple", "add a fish left of the apple", "a fish left of a red apple", (), ("two bells",), ""),
        ("a red apple", "add a fish right of the apple", "a fish right of a red apple", ("place",), ("two bells",),
         "fish .*left"),
        ("a red apple", "add a fish above the apple", "a red apple and a fish", ("place",), ("two bells",), "fish .*left"),
        ("a red apple", "add a cat", "a red apple and a cat", ("extra",), ("a fish", "two bells"), "cat"),
        ("a red apple", "add a red apple", "two red apples", ("count",), ("a fish", "two bells"), "extra red apple"),
        ("two bells", "add a bell", "three bells", ("count",), ("a red apple", "a fish"), "extra bell"),
        ("a bell", "add a red apple", "a bell and a red apple", (), ("a fish", "one more bell"), ""),
        ("a bell", "add a red apple", "a bell and a fish", ("follows",), ("a red apple", "a fish", "one more bell"),
         "red apple"),
        ("a bell", "remove the fish", "a bell", ("impossible",), ("a red apple", "a fish", "one more bell"), "red apple"),
        ("a bell", "blorp", "a bell", ("instruction",), ("a red apple", "a fish", "one more bell"), "red apple"),
        ("a bell", "add a red apple", "a bell, a", ("description",), ("a red apple", "a fish", "one more bell"), "red apple"),
        ("a bell", "add a fish above the cat", "a bell and a fish", ("impossible",), ("a red apple", "a fish", "one more bell"),
         "red apple"),
    ],
)  # fmt: skip
def test_the_critic_names_what_is_wrong_what_is_to_come_and_what_to_do(
    before: str, ins: str, des: str, faults: tuple[str, ...], deferred: tuple[str, ...], refine: str
) -> None:
    start = read_description(before) if before else NOTHING_YET
    for seed in range(5):
        verdict, _ = check_plan(Random(seed), ASKED, start, ins, des, held_out=bool(seed % 2))
        assert verdict.faults == faults
        assert verdict.inspection.deferred == deferred
        assert re.search(refine, verdict.inspection.refine)
        assert verdict.inspection.ok == (not faults)
        assert (verdict.inspection.refine == "") == (not faults)
