"""The loop itself: what it keeps, where it goes back, and how limits end it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from editkit.data.trace_files import read_traces, to_edit_pairs
from editkit.data.traces import Inspection, PlanTrace
from editkit.errors import UserError
from editkit.evaluate.plan_folder import PlanFolder
from editkit.models.chat.client import Spent
from editkit.models.generator import Drawn, Ended, Noted, Said, Step
from editkit.modular.budget import Meter
from editkit.modular.loop import NO_PLAN, ModularPlanner
from editkit.modular.options import Beginning, Budget

Issues = dict[Any, int | None]  # shade, or (step of the plan, shade) -> how many; None = no usable verdict
HOW = {"text_guidance": 1.0, "image_guidance": 1.0, "steps": 1, "seed": 0}


class Shades:
    """An editor whose pictures are the next shades of grey, and which knows what each was drawn from."""

    defaults: dict[str, Any] = {"steps": 1, "text_guidance": 1.0, "image_guidance": 1.0}
    about: dict[str, Any] = {"model": "shades"}

    def __init__(self) -> None:
        self.edits: list[tuple[int, str]] = []  # (shade of the source, instruction)

    def edit(self, source: Image.Image, instruction: str, **how: Any) -> Image.Image:
        self.edits.append((source.getpixel((0, 0))[0], instruction))
        return Image.new("RGB", (8, 8), (len(self.edits),) * 3)


class Script:
    """Plans `steps`, and finds in a picture of shade s as many issues as `issues` says."""

    name = "script"

    def __init__(self, steps: int, issues: Issues, spent: Spent | None = None, meter: Meter | None = None) -> None:
        self.count, self.issues, self.spent, self.meter = steps, issues, spent, meter

    def plan(self, prompt: str, start: object, most: int, seed: int) -> list[tuple[str, str]] | None:
        return [(f"do {n}", f"there is {n}") for n in range(1, self.count + 1)] or None

    def inspect(self, trace: PlanTrace, seed: int) -> Inspection | None:
        if self.meter is not None and self.spent is not None:
            self.meter.before_request()
            self.spent.calls, self.spent.tokens, self.spent.cost = self.spent.calls + 1, self.spent.tokens + 50, 0.5
        sketch = trace.steps[-1].sketch
        assert sketch is not None
        shade = sketch.open().getpixel((0, 0))[0]
        count = self.issues.get((len(trace.steps), shade), self.issues.get(shade, 0))
        if count is None:
            return None
        if count == 99:
            raise UserError("the endpoint stays away")
        return Inspection(not count, "image", tuple(f"fault {i}" for i in range(count)), (), f"mend {shade}" if count else "")


def drawn_with(
    planned: int, issues: Issues, *, start: bool = False, spent: Spent | None = None, **budget: Any
) -> tuple[list[Step], Shades]:
    editor, limits = Shades(), Budget(**budget)
    meter = Meter(limits)
    if spent is not None:
        meter.watch(spent)
    script = Script(planned, issues, spent, meter)
    given = Image.new("RGB", (8, 8), (200,) * 3) if start else None
    models = ModularPlanner(
        script, script, editor, start=given, generator=None, beginning=Beginning(resolution=8), budget=limits, meter=meter
    )
    return list(models.steps("a prompt", **HOW)), editor


def shades(events: Sequence[Step]) -> list[tuple[int, bool]]:
    return [(e.picture.getpixel((0, 0))[0], e.kept) for e in events if isinstance(e, Drawn)]


def ended(events: Sequence[Step]) -> Ended:
    assert isinstance(events[-1], Ended)
    return events[-1]


def saved(events: Sequence[Step], folder: Path) -> PlanTrace:
    """As `generate` saves it: every event is part of a trace that keeps all rules."""
    writer = PlanFolder(folder, "a prompt", {})
    for event in events:
        if isinstance(event, Said):
            writer.add_text(event.text)
        elif isinstance(event, Drawn):
            writer.add_picture(event.picture, event.kept)
    last = ended(events)
    assert writer.finish(last.why, last.by_itself, last.facts)["unread"] == ""
    return next(read_traces(folder))


def test_a_plan_without_faults_is_drawn_as_it_is(tmp_path: Path) -> None:
    events, editor = drawn_with(2, {})
    assert editor.edits == [(180, "do 1"), (1, "do 2")]  # the first on the empty canvas
    assert (ended(events).why, ended(events).by_itself, ended(events).facts["best"]) == ("the plan is done", True, 2)
    trace = saved(events, tmp_path / "made")
    assert trace.final is not None
    assert len(trace.steps) == 2


def test_a_refined_picture_stays_only_with_fewer_issues_and_ties_keep_the_draft(tmp_path: Path) -> None:
    events, editor = drawn_with(1, {1: 1, 2: 1, 3: 2}, refines=2)
    assert editor.edits == [(180, "do 1"), (1, "mend 1"), (1, "mend 1")]
    assert shades(events) == [(1, False), (2, False), (1, True), (3, False), (1, True)]
    assert ended(events).why == "the plan is done; what is left: fault 0"
    assert (ended(events).by_itself, ended(events).facts["best"]) == (False, 1)
    trace = saved(events, tmp_path / "made")
    assert trace.final is None  # its last picture has a fault
    assert trace.steps[-1].ins == "Go on with picture 1"
    assert not any(s.need_loss.sketch for s in trace.steps)
    assert Image.open(tmp_path / "made" / "picture.png").getpixel((0, 0)) == (1, 1, 1)


def test_a_better_one_is_mended_further_and_the_next_step_begins_with_it() -> None:
    events, editor = drawn_with(2, {1: 3, 2: 2, 3: 0}, refines=3)
    assert editor.edits == [(180, "do 1"), (1, "mend 1"), (2, "mend 2"), (3, "do 2")]
    assert ended(events).why == "the plan is done"


def test_a_draft_that_spoils_what_was_there_is_given_up(tmp_path: Path) -> None:
    # of the second plan the picture before lacks one thing (1), the draft three (2); the change is tried anew on the first
    events, editor = drawn_with(2, {(2, 1): 1, 2: 3}, refines=1)
    assert editor.edits == [(180, "do 1"), (1, "do 2"), (1, "mend 1")]
    assert shades(events) == [(1, False), (2, False), (1, True), (3, False)]
    assert (ended(events).why, ended(events).facts["best"]) == ("the plan is done", 4)
    saved(events, tmp_path / "made")


@pytest.mark.parametrize(("issues", "refines", "target"), [({1: 1, 2: 2, 3: 2}, 2, 4), ({1: 1}, 0, 2)])
def test_pairs_of_a_trace_have_the_picture_that_was_edited_as_source(
    issues: Issues, refines: int, target: int, tmp_path: Path
) -> None:
    events, _ = drawn_with(2, issues, refines=refines)  # the draft is kept, with its fault; then the second step
    pair = to_edit_pairs(saved(events, tmp_path / "made"))[-1]
    assert pair.source.open().getpixel((0, 0)) == (1, 1, 1)
    assert pair.target.open().getpixel((0, 0)) == (target,) * 3
    assert pair.instructions == ("do 2",)  # and not what would have mended the first


def test_a_picture_that_is_given_is_where_it_begins(tmp_path: Path) -> None:
    events, editor = drawn_with(1, {}, start=True)
    assert editor.edits == [(200, "do 1")]
    assert shades(events) == [(200, True), (1, False)]
    trace = saved(events, tmp_path / "made")
    assert [s.need_loss.sketch for s in trace.steps] == [False, True]


def test_no_verdict_leaves_a_draft_and_never_takes_a_refined_picture() -> None:
    events, _ = drawn_with(1, {1: None})
    assert [e.text for e in events if isinstance(e, Noted)] == [
        "the inspector gave no usable verdict; the picture stays as it is"
    ]
    assert "nobody could judge" in ended(events).why
    events, _ = drawn_with(1, {1: 1, 2: None}, refines=1)
    assert ended(events).facts["best"] == 1


def test_no_plan_is_an_end_without_a_picture() -> None:
    events, editor = drawn_with(0, {}, start=True)
    assert editor.edits == []
    assert isinstance(events[0], Noted)
    assert (ended(events).why, ended(events).by_itself) == (NO_PLAN, False)


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ({"calls": 2}, "budget: 2 calls"),
        ({"tokens": 60}, "budget: 60 tokens"),
        ({"cost": 0.5}, "budget: a cost of 0.5"),
        ({"steps": 1}, "budget: 1 of 3 steps of the plan"),
    ],
)
def test_a_limit_ends_with_the_best_and_says_which(limit: dict[str, Any], why: str, tmp_path: Path) -> None:
    events, _ = drawn_with(3, {1: 1, 2: 2, 3: 2}, spent=Spent(), **limit)
    assert (ended(events).why, ended(events).by_itself) == (why, False)
    assert shades(events)[-1][0] == 1
    saved(events, tmp_path / "made")


def test_the_time_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("editkit.modular.budget.time.monotonic", lambda: float(next(clock)))
    events, editor = drawn_with(5, {}, seconds=10)
    assert ended(events).why == "budget: 10 seconds"
    assert 0 < len(editor.edits) < 5


def test_an_endpoint_that_fails_on_the_way_ends_with_the_best_and_then_raises() -> None:
    editor, limits = Shades(), Budget()
    script = Script(2, {1: 1, 2: 2, 3: 99})
    models = ModularPlanner(
        script,
        script,
        editor,
        start=None,
        generator=None,
        beginning=Beginning(resolution=8),
        budget=limits,
        meter=Meter(limits),
    )
    events: list[Step] = []
    with pytest.raises(UserError, match="stays away"):  # noqa: PT012 (what came before it is kept)
        for event in models.steps("a prompt", **HOW):
            events.append(event)  # noqa: PERF402
    assert ended(events).why == "failed: the endpoint stays away"
    assert shades(events)[-1] == (1, True)
