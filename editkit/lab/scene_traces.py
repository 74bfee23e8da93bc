"""The plan traces of the scenes world, before they are drawn: scene graph, route, words, and what an inspection says.

Three subsets, as in "Think in Strokes, Not Pixels" (arXiv:2604.04746, table 1). "multi-turn": the steps to a scene, without
inspections. "text-side": a step whose plan agrees with the prompt or does not, and the verdict on it. "image-side": a step
that was drawn as planned or was not, the verdict, and what was not, corrected. In the last two the steps before are context,
not learned.

`draw_trace(...)` is a pure function of (seed, split, index, cell). No picture of the training split, faulty or on the way,
shows a held-out composition or a scene graph of the test split; the test split is told in phrasings that training never uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from editkit.data.traces import Inspection, NeedLoss
from editkit.lab.scene_prompts import TAGS, sample_prompt
from editkit.lab.scene_words import caption, count_of, noun
from editkit.lab.scenes import Scene, Thing
from editkit.lab.trace_check import NOTHING_YET, check_plan, places, still_to_come
from editkit.lab.trace_reading import read_description
from editkit.lab.trace_routes import ROUTES, Detour, Fault, Leg, Spoiled, draw_route, spoil
from editkit.lab.trace_words import AmbiguousError, Change, at_once, change_in_words, description, issue

MULTI_TURN, TEXT_RIGHT, TEXT_WRONG = "multi-turn", "text-side, correct", "text-side, wrong"
IMAGE_RIGHT, IMAGE_WRONG = "image-side, aligned", "image-side, misaligned"
# How many samples the paper has of each: the proportions of a data set.
CELLS: Mapping[str, int] = {
    MULTI_TURN: 32_012, TEXT_RIGHT: 6_905, TEXT_WRONG: 8_296, IMAGE_RIGHT: 5_000, IMAGE_WRONG: 10_000,
}  # fmt: skip

# Long prompts more often than GenEval's six categories have them: a scene of one object leaves nothing to plan.
TAG_WEIGHTS = {tag: {"multi": 14.0, "counting": 3.0}.get(tag, 1.0) for tag in TAGS}
PLAN_FAULTS = ("colour", "place", "extra", "count", "follows")
DRAWING_FAULTS: tuple[Fault, ...] = ("colour", "place", "extra", "swap", "missing", "count")
TRIES = 4  # routes drawn to a scene before another one is: to find a scene takes longer
WHOLE_SHARE = 1 / 2  # of the image-side traces that draw the whole scene in one step, as the drafts of GenRef do
NEW_SHARE = 3 / 4  # of the faulty drawings whose fault is at the object that the step adds
LEARNED = NeedLoss()
CONTEXT = NeedLoss(plan=False, sketch=False, inspection=False)
INSPECTED = NeedLoss(plan=False, sketch=False, inspection=True)


@dataclass(frozen=True, slots=True)
class DraftStep:
    """A step before it is drawn; `things` are what its picture shows, None = it has none. The rest as in `PlanStep`."""

    ins: str
    des: str
    things: tuple[Thing, ...] | None
    inspection: Inspection | None = None
    need_loss: NeedLoss = LEARNED


@dataclass(frozen=True, slots=True)
class Draft:
    """A trace before it is drawn.

    Attributes:
        category: the cell and, behind a colon, its route or its fault.
        prompt: in words.
        asked: the same as a line of GenEval's prompt file.
        scene: that fulfils the prompt, and that the trace ends in or is on the way to.
        steps: at least one.
        finished: whether the last picture is the final one.
        made: how the trace came about, for its provenance.
    """

    category: str
    prompt: str
    asked: Mapping[str, Any]
    scene: Scene
    steps: tuple[DraftStep, ...]
    finished: bool
    made: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """How multi-turn traces are drawn.

    Attributes:
        detours: share in [0, 1] of them that take one.
        learn_astray: whether the step that sets out on a detour is learned; else it is context, and only the mending is.
    """

    detours: float = 0.6
    learn_astray: bool = True


PAPER = RouteOptions()


def draw_trace(seed: int, split: str, index: int, cell: str, options: RouteOptions = PAPER) -> Draft:
    """Trace `index` of a split; `cell` is a key of `CELLS`."""
    rng = Random(f"plan_refine/{seed}/{split}/{index}")
    fault: str = {
        MULTI_TURN: rng.choice(list(ROUTES)[1:]) if rng.random() < options.detours else "",
        TEXT_WRONG: rng.choice(PLAN_FAULTS),
        IMAGE_WRONG: rng.choice(DRAWING_FAULTS),
    }.get(cell, "")
    tags, weights = list(TAG_WEIGHTS), list(TAG_WEIGHTS.values())
    while True:
        scene, asked = sample_prompt(rng, split, rng.choices(tags, weights)[0])
        for _ in range(TRIES):
            try:
                draft = _Drawing(rng, split, scene, asked).draw(cell, fault, options)
            except AmbiguousError:
                continue
            if draft is not None and all(_belongs(step.things, scene.ground, split) for step in draft.steps):
                return draft


def _belongs(things: tuple[Thing, ...] | None, ground: int, split: str) -> bool:
    """Whether the split may show these; on the way to a scene of the test split, any may be seen."""
    return split == "test" or not things or Scene(things, ground).split == split


class _Drawing:
    """One attempt; None where it leads to nothing."""

    def __init__(self, rng: Random, split: str, scene: Scene, asked: Mapping[str, Any]) -> None:
        self.rng, self.scene, self.asked = rng, scene, asked
        self.split, self.held_out = split, split == "test"

    def draw(self, cell: str, fault: str, options: RouteOptions) -> Draft | None:
        if cell == MULTI_TURN:
            return self._multi_turn(fault, options)
        legs = draw_route(self.rng, self.scene, "")
        if legs is None:
            return None
        if cell in (TEXT_RIGHT, TEXT_WRONG):
            return self._text_side(legs, fault)
        return self._image_side(legs, fault)

    def _multi_turn(self, detour: Detour | Any, options: RouteOptions) -> Draft | None:
        legs = draw_route(self.rng, self.scene, detour)
        if legs is None:
            return None
        steps = []
        for n, leg in enumerate(legs):
            learned = options.learn_astray or not leg.astray
            steps.append(replace(self._step(leg, n == 0), need_loss=NeedLoss(learned, learned, True)))
        return self._draft(f"{MULTI_TURN}: {ROUTES[detour]}", steps, finished=True, route=ROUTES[detour])

    def _step(self, leg: Leg, first: bool) -> DraftStep:
        ins = change_in_words(self.rng, leg.change, leg.before, self.held_out, first=first)
        return DraftStep(ins, self._described(leg.after), leg.after)

    def _described(self, things: Sequence[Thing]) -> str:
        return description(self.rng, things, self.asked, self.held_out)

    def _draft(self, category: str, steps: Sequence[DraftStep], *, finished: bool, **made: Any) -> Draft:
        prompt = caption(self.rng, self.asked, self.held_out)
        return Draft(category, prompt, self.asked, self.scene, tuple(steps), finished, made)

    def _text_side(self, legs: Sequence[Leg], fault: str) -> Draft | None:
        at = self.rng.randrange(len(legs))
        steps = [replace(self._step(leg, n == 0), need_loss=CONTEXT) for n, leg in enumerate(legs[:at])]
        planned = self._faulty_plan(legs[at], at == 0, fault) if fault else self._step(legs[at], at == 0)
        if planned is None:
            return None
        before = read_description(steps[-1].des) if steps else NOTHING_YET
        verdict, _ = check_plan(self.rng, self.asked, before, planned.ins, planned.des, self.held_out)
        if fault not in verdict.faults if fault else verdict.faults:
            return None  # what was to be wrong is not asked for
        things = planned.things if verdict.drawable else None
        steps.append(DraftStep(planned.ins, planned.des, things, verdict.inspection, INSPECTED))
        said = f"{TEXT_WRONG}: {fault}" if fault else TEXT_RIGHT
        return self._draft(said, steps, finished=False, step=at + 1, critic="symbolic", faults=list(verdict.faults))

    def _faulty_plan(self, leg: Leg, first: bool, fault: str) -> DraftStep | None:
        """The plan of a step with a fault in its words, and what a picture of it would show."""
        new = leg.change.new
        assert new is not None
        if fault == "follows":  # the description has another colour than the instruction, or another object
            spoiled = spoil(self.rng, leg.after, self.rng.choice(["colour", "missing"]), new)
            if spoiled is None or not spoiled.things or not _belongs(spoiled.things, self.scene.ground, self.split):
                return None  # a held-out composition is not even told of
            ins = change_in_words(self.rng, leg.change, leg.before, self.held_out, first=first)
            return DraftStep(ins, self._described(spoiled.things), None)
        if fault in ("extra", "count"):
            there = leg.before if fault == "extra" else self.scene.things
            victim = self.rng.choice(there) if there else new
            spoiled = spoil(self.rng, there, fault, victim) if fault == "extra" else self._one_too_many(victim)
            if spoiled is None or len(spoiled.things) <= len(there):
                return None
            more = spoiled.things[-1]
            return self._step(Leg(Change("add", None, more), leg.before, (*leg.before, more)), first)
        spoiled = spoil(self.rng, leg.after, "colour" if fault == "colour" else "place", new)
        if spoiled is None:
            return None
        wrong = spoiled.mend.old
        return self._step(Leg(Change("add", None, wrong), leg.before, spoiled.things), first)

    def _one_too_many(self, victim: Thing) -> Spoiled | None:
        spoiled = spoil(self.rng, self.scene.things, "count", victim)
        return spoiled if spoiled and spoiled.mend.what == "remove" else None

    def _image_side(self, legs: Sequence[Leg], fault: Fault | Any) -> Draft | None:
        whole = self.rng.random() < WHOLE_SHARE
        at = len(legs) - 1 if whole else self.rng.randrange(len(legs))
        leg = legs[at]
        if whole:
            steps = []
            planned = DraftStep(at_once(self.rng, leg.after, self.asked, self.held_out), self._described(leg.after), leg.after)
        else:
            steps = [replace(self._step(earlier, n == 0), need_loss=CONTEXT) for n, earlier in enumerate(legs[:at])]
            planned = self._step(leg, at == 0)
        deferred = still_to_come(self.asked, _bag(leg.after))
        agrees = Inspection(True, "image", deferred=deferred)
        facts: dict[str, Any] = {"step": len(steps) + 1, "whole": whole, "critic": "exact", "faults": [fault] if fault else []}
        if not fault:
            steps.append(replace(planned, inspection=agrees, need_loss=INSPECTED))
            return self._draft(IMAGE_RIGHT, steps, finished=not deferred, **facts)
        new = leg.change.new
        victim = new if new and not whole and self.rng.random() < NEW_SHARE else self.rng.choice(leg.after)
        spoiled = spoil(self.rng, leg.after, fault, victim)
        if spoiled is None:
            return None
        wrong = self._drawn_wrong(fault, spoiled, leg.after, planned.des)
        if not wrong:
            return None
        refine, again = (change_in_words(self.rng, spoiled.mend, spoiled.things, self.held_out) for _ in range(2))
        seen = Inspection(False, "image", (wrong,), deferred, refine)
        steps.append(replace(planned, things=spoiled.things, inspection=seen, need_loss=INSPECTED))
        steps.append(DraftStep(again, self._described(leg.after), leg.after, agrees))
        return self._draft(f"{IMAGE_WRONG}: {fault}", steps, finished=not deferred, **facts)

    def _drawn_wrong(self, fault: str, spoiled: Spoiled, right: Sequence[Thing], des: str) -> str:
        """What a picture has that its plan has not, in words; "" where the plan does not say that it should be otherwise."""
        rng, held_out, draft = self.rng, self.held_out, spoiled.things
        if fault in ("place", "swap"):
            for stated, found in places(read_description(des), draft):
                if found and found != stated.name:
                    said = {"wrong": f"{found} the {stated.other}", "right": f"{stated.name} it"}
                    return issue(rng, "place", held_out, thing=stated.kind, **said)
            return ""
        old, new = spoiled.mend.old, spoiled.mend.new
        one = old or new
        assert one is not None
        number, wanted = (sum(t.kind == one.kind for t in things) for things in (draft, right))
        if number != wanted and min(number, wanted) > 0:
            said = {"wrong": count_of(one.kind, number), "right": count_of(one.kind, wanted)}
            return issue(rng, "count", held_out, **said)
        if new is None:
            return issue(rng, "extra", held_out, thing=noun(one.kind, 1, one.colour))
        if old is None:
            return issue(rng, "missing", held_out, thing=noun(one.kind, 1, one.colour))
        thing = f"the {old.kind}" if number == 1 else f"one {old.kind}"
        return issue(rng, "colour", held_out, thing=thing, wrong=old.colour, right=new.colour)


def _bag(things: Sequence[Thing]) -> Counter[tuple[str, str]]:
    return Counter((t.kind, t.colour) for t in things)
