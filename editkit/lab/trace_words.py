"""The words of plan traces in the scenes world: what a step changes, what the whole picture shows, what is wrong.

Instructions use the templates of the world's edits (`editkit.lab.scene_words.EDITS`) and a few of their own for an empty
picture. All of it can be read back by `editkit.lab.trace_reading`, which takes its grammar from the tables here; each table
holds (phrasings for training, phrasings held out for evaluation).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from editkit.lab.scene_words import RELATIONS, beside, in_place, instruction, noun, statement
from editkit.lab.scenes import Thing, relation

Phrasings = tuple[tuple[str, ...], tuple[str, ...]]
What = Literal["add", "remove", "recolour", "move", "swap"]

DESCRIPTIONS: Phrasings = (
    ("{scene}", "a picture of {scene}", "the picture shows {scene}", "an image of {scene}", "a scene with {scene}",
     "it now shows {scene}", "in the picture: {scene}", "one sees {scene}"),
    ("by now the picture has {scene}", "a view of {scene}"),
)  # fmt: skip
BEGINNINGS: Phrasings = (  # of the first object
    ("draw {new} {where}", "start with {new} {where}", "begin with {new} {where}", "put {new} {where}", "place {new} {where}",
     "first draw {new} {where}", "first, {new} {where}", "show {new} {where}"),
    ("to begin with, {new} {where}", "paint {new} {where} first"),
)  # fmt: skip
AT_ONCE: Phrasings = (  # of a whole scene in one step
    ("draw {scene}", "draw all at once: {scene}", "make a picture of {scene}", "show {scene}", "draw the whole scene: {scene}",
     "put everything in: {scene}", "draw everything: {scene}", "a picture with {scene}"),
    ("paint it all together: {scene}", "complete at once: {scene}"),
)  # fmt: skip
AND_THEN = " and then "  # between two instructions of one correction
NOTHING = "change nothing"

ISSUES: Mapping[str, Phrasings] = {
    "colour": (
        ("{thing} is {wrong}, not {right}", "{thing} should be {right}, not {wrong}", "{thing} is {wrong} instead of {right}",
         "{thing} has the colour {wrong} and not {right}"),
        ("{thing} came out {wrong} where {right} was wanted",),
    ),
    "place": (
        ("the {thing} is {wrong}, not {right}", "the {thing} should be {right}, not {wrong}",
         "the {thing} stands {wrong} instead of {right}"),
        ("the {thing} ended up {wrong} where {right} was wanted",),
    ),
    "missing": (
        ("{thing} is missing", "{thing} is not there", "{thing} was not drawn", "{thing} cannot be seen"),
        ("{thing} was forgotten",),
    ),
    "extra": (
        ("{thing} is not asked for", "there is {thing} too many", "{thing} does not belong there", "nobody asked for {thing}"),
        ("{thing} has no business there",),
    ),
    "count": (
        ("found {wrong}, not {right}", "there should be {right}, not {wrong}", "{wrong} instead of {right}",
         "it has {wrong} where {right} should be"),
        ("counted {wrong} where {right} was wanted",),
    ),
    "follows": (
        ("the description does not follow from the instruction", "instruction and description contradict each other",
         "the description shows another change than the instruction asks for"),
        ("what is described is not what the instruction does",),
    ),
    "impossible": (
        ("the instruction speaks of something that is not there", "there is nothing that the instruction could change",
         "what the instruction would change was never drawn"),
        ("the instruction reaches for what does not exist",),
    ),
    "instruction": (
        ("the instruction cannot be understood", "the instruction is not a clear change"),
        ("nobody could follow the instruction",),
    ),
    "description": (
        ("the description cannot be understood", "the description does not say clearly what is seen"),
        ("nobody could picture the description",),
    ),
}  # fmt: skip


class AmbiguousError(ValueError):
    """No words tell an object from its neighbours; another scene has to be drawn."""


@dataclass(frozen=True, slots=True)
class Change:
    """One step from picture to picture.

    Attributes:
        what: the kind of edit.
        old: the object in question as it was; of "add" None.
        new: as it is afterwards; of "remove" None. Of "swap" the other object as it was.
    """

    what: What
    old: Thing | None
    new: Thing | None


def named(rng: Random, thing: Thing, things: Sequence[Thing]) -> str:
    """Words, behind "the", that mean this object and no other of `things`: "apple", "red apple", "red apple in the top left".

    Raises:
        AmbiguousError: there are none.
    """
    others = [t for t in things if t is not thing and t.kind == thing.kind]
    if not others:
        return thing.kind if rng.random() < 1 / 2 else f"{thing.colour} {thing.kind}"
    others = [t for t in others if t.colour == thing.colour]
    if not others:
        return f"{thing.colour} {thing.kind}"
    if any(t.place == thing.place for t in others):
        raise AmbiguousError(f"two {thing.colour} {thing.kind} in the {thing.place}")
    return f"{thing.colour} {thing.kind} {in_place(thing.place)}"


def change_in_words(rng: Random, change: Change, before: Sequence[Thing], held_out: bool, *, first: bool = False) -> str:
    """The instruction of a change, in words drawn anew.

    Args:
        rng: where the draws come from.
        change: what is to be done.
        before: what is there.
        held_out: in words that training never uses.
        first: nothing is there because nothing was drawn yet.

    Raises:
        AmbiguousError: what is changed, or where it goes, cannot be told in words.
    """
    old, new = change.old, change.new
    if change.what == "add" and new:
        words = {"new": noun(new.kind, 1, new.colour), "where": _where(rng, new, before, None, held_out)}
        if first:
            return rng.choice(BEGINNINGS[held_out]).format(**words)
        return instruction(rng, "add", held_out, old="", **words)
    assert old is not None
    words = {"old": named(rng, old, before)}
    if change.what == "recolour" and new:
        words["new"] = new.colour
    elif change.what == "swap" and new:
        words["new"] = named(rng, new, before)
    elif change.what == "move" and new:
        words["where"] = _where(rng, new, before, old, held_out)
    return instruction(rng, change.what, held_out, **words)


def _where(rng: Random, new: Thing, before: Sequence[Thing], old: Thing | None, held_out: bool) -> str:
    """Where an object goes: beside one that is there, else in which ninth; of a move, somewhere else than it was."""
    clear = []
    for other in before:
        name = relation(new, other)
        if other is old or not name or (old and relation(old, other) == name):
            continue
        if sum(t.kind == other.kind for t in before) == 1:  # what others are placed by has to be plain at a glance
            clear.append((name, other))
    if clear:
        name, other = rng.choice(clear)
        return beside(rng, name, named(rng, other, before), held_out)
    if old and old.place == new.place:
        raise AmbiguousError(f"moved within the {new.place}")
    return in_place(new.place)


def shown(things: Sequence[Thing], asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All that is seen, as the `include` of GenEval's prompt file: how many of each class and colour, and where.

    An object's place is told beside an earlier one: the one that the prompt names, where it names one, else the last.
    """
    kinds = Counter(t.kind for t in things)
    numbers = Counter((t.kind, t.colour) for t in things)
    wanted = {frozenset((e["class"], asked["include"][e["position"][1]]["class"])) for e in asked["include"] if "position" in e}
    include: list[dict[str, Any]] = []
    told: list[Thing] = []  # in the order of `include`
    for thing in things:
        if any((t.kind, t.colour) == (thing.kind, thing.colour) for t in told):
            continue
        entry: dict[str, Any] = {"class": thing.kind, "count": numbers[thing.kind, thing.colour], "color": thing.colour}
        alone = [j for j, t in enumerate(told) if kinds[t.kind] == kinds[thing.kind] == 1]
        clear = [(j, name) for j in alone if (name := relation(thing, told[j]))]
        if clear:
            j, name = max(clear, key=lambda c: (frozenset((thing.kind, told[c[0]].kind)) in wanted, c[0]))
            entry["position"] = [name, j]
        include.append(entry)
        told.append(thing)
    return include


def description(rng: Random, things: Sequence[Thing], asked: Mapping[str, Any], held_out: bool) -> str:
    """The whole picture in words drawn anew; every object with its colour, see `shown`."""
    return rng.choice(DESCRIPTIONS[held_out]).format(scene=_said(rng, things, asked, held_out))


def at_once(rng: Random, things: Sequence[Thing], asked: Mapping[str, Any], held_out: bool) -> str:
    """The instruction to draw all of this in one step."""
    return rng.choice(AT_ONCE[held_out]).format(scene=_said(rng, things, asked, held_out))


def _said(rng: Random, things: Sequence[Thing], asked: Mapping[str, Any], held_out: bool) -> str:
    if not things:
        raise ValueError("found an empty scene; there are no words for it")
    return statement(shown(things, asked), {name: rng.choice(words) for name, words in RELATIONS[held_out].items()})


def issue(rng: Random, fault: str, held_out: bool, **words: str) -> str:
    """What is wrong, in words drawn anew; `fault` is a key of `ISSUES` and `words` what its templates name."""
    return rng.choice(ISSUES[fault][held_out]).format(**words)
