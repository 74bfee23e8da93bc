"""Plan traces: what is printed is read back, and what breaks a rule is refused with the step and the reason."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.data.pictures import Picture
from editkit.data.traces import (
    PREFIX,
    Inspection,
    NeedLoss,
    PlanStep,
    PlanTrace,
    TraceError,
    check_trace,
    inspection_text,
    parse_inspection,
    parse_plan,
    parse_trace,
    plan_text,
    trace_text,
)
from tests.tiny import encoded, picture

DRAWN = [Picture(data=encoded(picture(colour)), label=colour) for colour in ("red", "blue", "green", "white")]
REJECTED = Inspection(False, "image", ("two zebras instead of one", "one is hidden"), ("a tree",), "remove the hidden zebra")

# anything that a person may type on a line, and much that looks like the grammar
lines = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=40).map(str.strip).filter(bool)
tricky = st.sampled_from(
    ["a.", "a. b", "wrong: x", "The image is correct.", "<ins", "</b>", "<refined>", "still to come: a", ":", ". ", "ok. <x>"]
)
words = st.one_of(lines, tricky.map(str.strip)).filter(lambda t: "<ins>" not in t and "<image>" not in t)
items = words.filter(lambda t: ";" not in t and " Still to come: " not in f" {t} ")
item_lists = st.lists(items, max_size=3).map(tuple)


@st.composite
def inspections(draw: st.DrawFn, ok: bool) -> Inspection:
    on = draw(st.sampled_from(("plan", "image")))
    deferred = draw(item_lists)
    if ok:
        return Inspection(True, on, (), deferred)
    return Inspection(False, on, draw(st.lists(items, min_size=1, max_size=3).map(tuple)), deferred, draw(words))


@st.composite
def traces(draw: st.DrawFn, losses: bool = False) -> PlanTrace:
    steps = []
    for _ in range(draw(st.integers(1, 4))):
        seen = draw(st.one_of(st.none(), inspections(True), inspections(False)))
        drawn = not (seen and not seen.ok and seen.on == "plan") or draw(st.booleans())
        need = NeedLoss(draw(st.booleans()), draw(st.booleans()), draw(st.booleans())) if losses else NeedLoss()
        need = NeedLoss(need.plan, need.sketch or not drawn, need.inspection or seen is None)  # of what is there
        steps.append(PlanStep(draw(words), draw(words), draw(st.sampled_from(DRAWN)) if drawn else None, seen, need))
    last = steps[-1]
    finished = last.inspection is None or (last.inspection.ok and not last.inspection.deferred and draw(st.booleans()))
    return PlanTrace("trace-1", draw(words), tuple(steps), last.sketch if finished else None)


@given(traces())
def test_text_and_trace_say_the_same(trace: PlanTrace) -> None:
    check_trace(trace)
    pictures = [s.sketch for s in trace.steps if s.sketch is not None]
    text = trace_text(trace)
    read = parse_trace(text, pictures, trace.key, finished=trace.final is not None)
    assert read == trace
    assert trace_text(read) == text


@given(st.one_of(inspections(True), inspections(False)))
def test_an_inspection_comes_back_from_its_text(seen: Inspection) -> None:
    assert parse_inspection(inspection_text(seen)) == seen


def test_the_text_form_is_as_documented() -> None:
    steps = (
        PlanStep("draw a meter", "a street with a meter", DRAWN[0], Inspection(True, deferred=("a zebra",))),
        PlanStep("add a zebra", "a zebra right of the meter", DRAWN[1], REJECTED, NeedLoss(sketch=False)),
        PlanStep("remove the hidden zebra", "one zebra", DRAWN[2]),
    )
    assert trace_text(PlanTrace("zebra", "a zebra right of a parking meter", steps, DRAWN[2])).split("\n") == [
        "Please create the image step-by-step: a zebra right of a parking meter",
        "<ins>draw a meter</ins><des>a street with a meter</des>",
        "<image>",
        "The image is correct. Still to come: a zebra.",
        "<ins>add a zebra</ins><des>a zebra right of the meter</des>",
        "<image>",
        f"The image is wrong: {'; '.join(REJECTED.issues)}. Still to come: a tree. <refine>remove the hidden zebra</refine>",
        "<ins>remove the hidden zebra</ins><des>one zebra</des>",
        "<image>",
    ]


GOOD = PlanStep("add a cat", "a cat", DRAWN[0])
PLAN_REJECTED = Inspection(False, "plan", ("it is a dog",), (), "draw a cat")


def finished(*steps: PlanStep, **other: Any) -> PlanTrace:
    return PlanTrace("t", "a cat", steps, steps[-1].sketch, **other)


@pytest.mark.parametrize(
    ("trace", "step", "why"),
    [
        (PlanTrace("a/b", "a cat", (GOOD,), DRAWN[0]), 0, "found this key"),
        (PlanTrace("t", "", (GOOD,), DRAWN[0]), 0, "found prompt = ''"),
        (PlanTrace("t", "a\ncat", (GOOD,), DRAWN[0]), 0, "line break"),
        (PlanTrace("t", "a cat", (), None), 0, "found no step"),
        (finished(GOOD, replace(GOOD, ins="")), 2, "found ins = ''"),
        (finished(GOOD, replace(GOOD, des=" a cat")), 2, "found des = ' a cat'"),
        (finished(replace(GOOD, ins="add <ins>")), 1, "found <ins> inside ins"),
        (finished(GOOD, GOOD, replace(GOOD, des="a</refine>")), 3, "found </refine> inside des"),
        (finished(replace(GOOD, sketch=None), GOOD), 1, "found no picture"),
        (finished(replace(GOOD, sketch=None, inspection=REJECTED), GOOD), 1, "found no picture"),
        (finished(replace(GOOD, inspection=replace(REJECTED, on="sketch")), GOOD), 1, 'inspection of the "sketch"'),
        (finished(GOOD, replace(GOOD, inspection=replace(REJECTED, ok=True))), 2, "inspection that is ok"),
        (finished(replace(GOOD, inspection=replace(REJECTED, issues=())), GOOD), 1, "rejection without issues"),
        (finished(replace(GOOD, inspection=replace(REJECTED, refine="")), GOOD), 1, "rejection without issues or correction"),
        (finished(replace(GOOD, inspection=replace(REJECTED, issues=("a; b",))), GOOD), 1, 'without ";"'),
        (finished(replace(GOOD, inspection=replace(REJECTED, issues=("",))), GOOD), 1, "found issue = ''"),
        (finished(replace(GOOD, inspection=Inspection(True, deferred=("a. Still to come: b",))), GOOD), 1, "Still to come"),
        (finished(GOOD, replace(GOOD, inspection=REJECTED)), 2, "fault in the last step"),
        (finished(GOOD, replace(GOOD, inspection=Inspection(True, deferred=("a dog",)))), 2, "a dog still to come"),
        (PlanTrace("t", "a cat", (GOOD,), DRAWN[1]), 1, "not the last step's"),
        (PlanTrace("t", "a cat", (GOOD,), None), 1, "neither a final picture nor an inspection"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_step_and_the_reason(trace: PlanTrace, step: int, why: str) -> None:
    with pytest.raises(TraceError) as refused:
        check_trace(trace)
    assert refused.value.step == step
    assert why in refused.value.why
    assert (f"step {step}" in str(refused.value)) == (step > 0)


def test_a_plan_may_be_rejected_before_it_is_drawn() -> None:
    check_trace(finished(replace(GOOD, sketch=None, inspection=PLAN_REJECTED), GOOD))


def test_a_trace_may_end_with_a_verdict() -> None:
    check_trace(PlanTrace("t", "a cat", (replace(GOOD, inspection=REJECTED),), None))


PLAN = "<ins>add a cat</ins><des>a cat</des>"


@pytest.mark.parametrize(
    ("body", "pictures", "step", "why"),
    [
        ([PLAN, "<image>", "well done"], 1, 1, "found 'well done'"),
        ([PLAN, "<image>", PLAN, "<image>", "The image is wrong."], 2, 2, "expected \"The plan|image is correct.\""),
        ([PLAN, "<image>", "The image is correct. <refine>do</refine>"], 1, 1, "inspection that is ok"),
        ([PLAN, "<image>", "The image is wrong: a."], 1, 1, "rejection without issues or correction"),
        ([PLAN, "<image>", "The image is wrong: a; . <refine>b</refine>"], 1, 1, "found issue = ''"),
        (["<ins>add a cat</ins>"], 0, 1, "expected <ins>...</ins><des>...</des>"),
        (["<image>", PLAN], 1, 1, "expected a plan first"),
        ([PLAN, "<image>", "<image>"], 2, 1, "found a second picture"),
        ([PLAN, "<image>", "The image is correct.", "The image is correct."], 1, 1, "behind the inspection"),
        ([PLAN, "The plan is correct.", "<image>"], 1, 1, "behind the inspection"),
        ([PLAN, "<image>"], 0, 0, "found 0 pictures for 1"),
        ([PLAN, "<image>"], 2, 0, "found 2 pictures for 1"),
        ([PLAN], 0, 1, "found no picture"),
        ([], 0, 0, "found no step"),
        ([PLAN, "<image>", ""], 1, 1, "found ''"),
    ],
)  # fmt: skip
def test_text_of_another_grammar_is_refused(body: list[str], pictures: int, step: int, why: str) -> None:
    with pytest.raises(TraceError) as refused:
        parse_trace("\n".join([PREFIX + "a cat", *body]), DRAWN[:pictures], "t")
    assert refused.value.step == step
    assert why in refused.value.why


def test_the_first_line_is_the_prompt() -> None:
    with pytest.raises(TraceError, match="expected a first line"):
        parse_trace(PLAN, [], "t")


def test_a_plan_comes_back_from_its_text() -> None:
    assert parse_plan(plan_text(GOOD)) == ("add a cat", "a cat")
    with pytest.raises(TraceError, match="found <des> inside"):
        parse_plan("<ins>a</ins><des>b<des></des>")


def test_the_error_survives_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(TraceError("t", 2, "why")))
    assert (error.key, error.step, str(error)) == ("t", 2, "t, step 2: why")
