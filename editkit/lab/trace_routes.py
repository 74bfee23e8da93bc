"""From the scene of a prompt to the pictures on the way to it: growing chains of sub-scenes, and routes with a detour.

A chain adds one object after the other, in an order drawn at random; since each picture contains the one before, none
contradicts the last. A detour first draws something otherwise than it will be and mends it later: another colour, another
place, one object too many, two objects that change places ("Think in Strokes, Not Pixels", arXiv:2604.04746: attribute change,
swap and removal, rewritten from additive chains). Every route ends in the same scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from editkit.lab.scene_art import COLOURS, GLYPHS
from editkit.lab.scene_edits import SIDES, exchanged
from editkit.lab.scenes import Scene, Thing, add_thing, relation
from editkit.lab.trace_words import Change

MAX_STEPS = 5  # pictures of a trace, as in the paper
Fault = Literal["colour", "place", "extra", "swap", "missing", "count"]
Detour = Literal["colour", "place", "extra", "swap"]
ROUTES: dict[str, str] = {"": "additive", "colour": "recolour", "place": "move", "extra": "remove", "swap": "swap"}


@dataclass(frozen=True, slots=True)
class Leg:
    """One step of a route.

    Attributes:
        change: what it does.
        before, after: what there is.
        astray: whether it draws something otherwise than it will be.
    """

    change: Change
    before: tuple[Thing, ...]
    after: tuple[Thing, ...]
    astray: bool = False


@dataclass(frozen=True, slots=True)
class Spoiled:
    """Objects with one fault, and the change that mends it."""

    things: tuple[Thing, ...]
    mend: Change


def spoil(rng: Random, things: Sequence[Thing], fault: Fault, victim: Thing) -> Spoiled | None:
    """Gives one object a fault, or None where that does not come about.

    Args:
        rng: where the draws come from.
        things: what there should be; every other object stays as it is.
        fault: "colour", "place", "swap" of the victim; "missing": it is not there; "extra": an object of another class is there
            as well; "count": one more of its class and colour, or one fewer where there are several.
        victim: one of `things`.
    """
    others = tuple(t for t in things if t is not victim)
    if fault == "colour":
        wrong = replace(victim, colour=rng.choice([c for c in COLOURS if c != victim.colour]))
        return Spoiled(_with(things, victim, wrong), Change("recolour", wrong, victim))
    if fault == "place":
        wrong = add_thing(rng, others, victim.kind, victim.colour, victim.side)
        if wrong is None or not _elsewhere(wrong, victim, others):
            return None
        return Spoiled(_with(things, victim, wrong), Change("move", wrong, victim))
    if fault == "missing" or (fault == "count" and rng.random() < 1 / 2 and any(t.kind == victim.kind for t in others)):
        return Spoiled(others, Change("add", None, victim))
    if fault in ("extra", "count"):
        free = [k for k in GLYPHS if k not in {t.kind for t in things}]
        kind, colour = (rng.choice(free), rng.choice(list(COLOURS))) if fault == "extra" else (victim.kind, victim.colour)
        more = add_thing(rng, things, kind, colour, rng.randint(*SIDES))
        return Spoiled((*things, more), Change("remove", more, None)) if more else None
    if not others:
        return None
    other = rng.choice(others)
    places = exchanged(things, victim, other)
    if places is None or victim.kind == other.kind:
        return None
    there, here = places
    return Spoiled(_with(_with(things, victim, there), other, here), Change("swap", there, here))


def _with(things: Sequence[Thing], old: Thing, new: Thing) -> tuple[Thing, ...]:
    return tuple(new if t is old else t for t in things)


def _elsewhere(wrong: Thing, right: Thing, others: Sequence[Thing]) -> bool:
    """Whether two places can be told apart in words: by a relation to another object, else by the ninth of the picture."""
    if not others:
        return wrong.place != right.place
    return any((a := relation(wrong, t)) and (b := relation(right, t)) and a != b for t in others)


def draw_route(rng: Random, scene: Scene, detour: Detour | Literal[""]) -> list[Leg] | None:
    """A way to a scene, from an empty picture; None where this draw leads to none, or to more than `MAX_STEPS` pictures.

    Args:
        rng: where the draws come from.
        scene: where it ends.
        detour: what is drawn otherwise at first; "" = nothing.
    """
    order = rng.sample(scene.things, len(scene.things))
    if not detour:
        return _grown(order) if len(order) <= MAX_STEPS else None
    if len(order) + (2 if detour == "extra" else 1) > MAX_STEPS:
        return None
    victim = rng.choice(order)
    spoiled = spoil(rng, order, detour, victim)
    if spoiled is None:
        return None
    if detour == "extra":
        extra = spoiled.things[-1]
        start = rng.randint(0, len(order))
        order.insert(start, extra)
        stop = rng.randint(max(start + 1, 2), len(order))  # something stays
        return _mended(_grown(order, astray={start}), stop, spoiled.mend)
    changed = [i for i, (a, b) in enumerate(zip(order, spoiled.things, strict=True)) if a is not b]
    stop = rng.randint(changed[-1] + 1, len(order))
    return _mended(_grown(spoiled.things, astray=set(changed)), stop, spoiled.mend, order)


def _grown(order: Sequence[Thing], astray: set[int] | frozenset[int] = frozenset()) -> list[Leg]:
    steps = enumerate(order)
    return [Leg(Change("add", None, t), tuple(order[:i]), tuple(order[: i + 1]), i in astray) for i, t in steps]


def _mended(legs: Sequence[Leg], stop: int, mend: Change, order: Sequence[Thing] | None = None) -> list[Leg]:
    """The route with the fault mended behind its first `stop` legs.

    Args:
        legs: all of which are on the detour.
        stop: how many of them go before the mending.
        mend: the change.
        order: the objects as they should be, in the order of the legs; None = the fault is an object too many.
    """

    def right(things: Sequence[Thing]) -> tuple[Thing, ...]:
        return tuple(order[: len(things)]) if order is not None else tuple(t for t in things if t is not mend.old)

    mending = Leg(mend, legs[stop - 1].after, right(legs[stop - 1].after))
    return [*legs[:stop], mending, *(replace(leg, before=right(leg.before), after=right(leg.after)) for leg in legs[stop:])]
