"""Judges the plan of a step by its words and the prompt alone, and says what to do about it.

The critic of the traces is symbolic: it reads the texts back to objects and never looks at a picture, so that what trains a
model is not what it is tested with. A plan is wrong where it contradicts the prompt, where its description is not what its
instruction does, or where either cannot be read. What it leaves for later is no fault, and is named as still to come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from editkit.data.traces import Inspection
from editkit.lab.scene_words import NUMBERS, beside, count_of, instruction, noun, plural
from editkit.lab.scenes import Thing, relation
from editkit.lab.trace_reading import (
    Bag,
    Command,
    Description,
    Relation,
    UnreadableError,
    perform,
    read_commands,
    read_description,
)
from editkit.lab.trace_words import AND_THEN, NOTHING, issue

NOTHING_YET = Description(())


@dataclass(frozen=True, slots=True)
class PlanVerdict:
    """What is said of a plan.

    Attributes:
        inspection: on the plan.
        faults: keys of `editkit.lab.trace_words.ISSUES`, one an issue; none of a plan that is right.
        drawable: whether the correction goes on from a picture of this plan; else from the one before, for nobody can say what
            a picture of it would show.
    """

    inspection: Inspection
    faults: tuple[str, ...]
    drawable: bool


def check_plan(
    rng: Random, asked: Mapping[str, Any], before: Description, ins: str, des: str, held_out: bool
) -> tuple[PlanVerdict, Description]:
    """Judges one step.

    Args:
        rng: from which words are drawn.
        asked: what the prompt asks for, a line of GenEval's prompt file in this world.
        before: what the step before described; `NOTHING_YET` of the first.
        ins, des: of the step.
        held_out: speak in words that training never uses.

    Returns:
        (the verdict, what there is behind the step if it was right).
    """
    commands, told, unclear = _read(ins, des)
    stated: list[Relation] = []
    if commands is not None and told is not None:
        happens = perform(before.bag, commands)
        if happens is None:
            unclear.append("impossible")
        elif happens != told.bag:
            unclear.append("follows")
        else:
            stated, contradicts = _stated(commands, told)
            unclear += ["follows"] if contradicts else []
    if unclear or told is None:
        issues = tuple(issue(rng, fault, held_out) for fault in unclear)
        mend = next_step(rng, asked, before, held_out)
        seen = Inspection(False, "plan", issues, still_to_come(asked, before.bag), mend)
        return PlanVerdict(seen, tuple(unclear), drawable=False), before
    found = conflicts(rng, asked, told.bag, stated, held_out)
    deferred = still_to_come(asked, told.bag)
    if not found:
        return PlanVerdict(Inspection(True, "plan", deferred=deferred), (), drawable=True), told
    mends = AND_THEN.join(mend for c in found for mend in c.mends)
    seen = Inspection(False, "plan", tuple(c.issue for c in found), deferred, mends)
    return PlanVerdict(seen, tuple(c.fault for c in found), drawable=True), told


def _read(ins: str, des: str) -> tuple[list[Command] | None, Description | None, list[str]]:
    """(the instructions, the description, which of the two cannot be read)."""
    commands, told, unclear = None, None, []
    try:
        commands = read_commands(ins)
    except UnreadableError:
        unclear.append("instruction")
    try:
        told = read_description(des)
    except UnreadableError:
        unclear.append("description")
    return commands, told, unclear


def _stated(commands: Sequence[Command], told: Description) -> tuple[list[Relation], bool]:
    """(all relations that instruction and description state, whether they contradict each other).

    A swap moves two objects at once; where they are then, only the description says.
    """
    stated, contradicts = list(told.relations), False
    for command in commands:
        if command.beside is None:
            continue
        name, other = command.beside
        kind = command.old.kind if command.old else command.added.nouns[0].kind if command.added else ""
        said = next((r for relation in told.relations if (r := relation.said_of(kind, other.kind))), "")
        contradicts |= said not in ("", name)
        stated.append(Relation(kind, name, other.kind))
    return stated, contradicts


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something that the prompt asks to be otherwise: which fault, in words, and the instructions that mend it."""

    fault: str
    issue: str
    mends: tuple[str, ...]


def conflicts(rng: Random, asked: Mapping[str, Any], bag: Bag, stated: Sequence[Relation], held_out: bool) -> list[Conflict]:
    """What objects with these relations have that contradicts what is asked for."""
    entries = {entry["class"]: entry for entry in asked["include"]}
    found: list[Conflict] = []
    for (kind, colour), count in bag.items():
        if kind not in entries:
            bare = f"{colour} {kind}".strip()
            mends = tuple(instruction(rng, "remove", held_out, old=bare) for _ in range(count))
            found.append(Conflict("extra", issue(rng, "extra", held_out, thing=noun(kind, count, colour)), mends))
    for kind, entry in entries.items():
        mine = {colour: n for (k, colour), n in bag.items() if k == kind}
        found += _wrong_number(rng, entry, mine, held_out)
        found += _wrong_colours(rng, entry, mine, held_out)
        if "position" in entry:
            other = asked["include"][entry["position"][1]]["class"]
            alone = all(sum(n for (k, _), n in bag.items() if k == one) == 1 for one in (kind, other))
            found += _wrong_place(rng, (kind, entry["position"][0], other), stated, held_out) if alone else []
    return found


def _wrong_number(rng: Random, entry: Mapping[str, Any], mine: dict[str, int], held_out: bool) -> list[Conflict]:
    """Too many; those of another colour than is asked for go first, and are taken out of `mine`."""
    kind, total = entry["class"], sum(mine.values())
    if total <= entry["count"]:
        return []
    said = issue(rng, "count", held_out, wrong=count_of(kind, total), right=count_of(kind, entry["count"]))
    mends = []
    for _ in range(total - entry["count"]):
        colour = max(mine, key=lambda c: (c not in ("", entry.get("color", "")), mine[c]))
        mine[colour] -= 1
        if not mine[colour]:
            del mine[colour]
        mends.append(instruction(rng, "remove", held_out, old=" ".join(filter(None, ("extra", colour, kind)))))
    return [Conflict("count", said, tuple(mends))]


def _wrong_colours(rng: Random, entry: Mapping[str, Any], mine: Mapping[str, int], held_out: bool) -> list[Conflict]:
    kind, right, total = entry["class"], entry.get("color", ""), sum(mine.values())
    found = []
    for wrong, count in mine.items():
        if not right or wrong in ("", right):
            continue
        thing = f"the {kind}" if total == 1 else f"one {kind}"
        said = issue(rng, "colour", held_out, thing=thing, wrong=wrong, right=right)
        mends = tuple(instruction(rng, "recolour", held_out, old=f"{wrong} {kind}", new=right) for _ in range(count))
        found.append(Conflict("colour", said, mends))
    return found


def _wrong_place(rng: Random, wanted: tuple[str, str, str], stated: Sequence[Relation], held_out: bool) -> list[Conflict]:
    kind, name, other = wanted
    said = next((found for relation in stated if (found := relation.said_of(kind, other))), "")
    if said in ("", name):
        return []
    words = issue(rng, "place", held_out, thing=kind, wrong=f"{said} the {other}", right=f"{name} it")
    mend = instruction(rng, "move", held_out, old=kind, where=beside(rng, name, other, held_out))
    return [Conflict("place", words, (mend,))]


def still_to_come(asked: Mapping[str, Any], bag: Bag) -> tuple[str, ...]:
    """What is asked for and not there yet: "a red apple", "two more fishes"."""
    found = []
    for entry in asked["include"]:
        kind, colour = entry["class"], entry.get("color", "")
        there = sum(n for (k, _), n in bag.items() if k == kind)
        missing = entry["count"] - there
        if missing > 0 and not there:
            found.append(noun(kind, missing, colour))
        elif missing > 0:
            found.append(" ".join(filter(None, (NUMBERS[missing], "more", colour, kind if missing == 1 else plural(kind)))))
    return tuple(found)


def next_step(rng: Random, asked: Mapping[str, Any], before: Description, held_out: bool) -> str:
    """The instruction that leads on from a picture which agrees with the prompt."""
    bag = before.bag
    number = {entry["class"]: sum(n for (k, _), n in bag.items() if k == entry["class"]) for entry in asked["include"]}
    for entry in asked["include"]:
        if number[entry["class"]] >= entry["count"]:
            continue
        new, where = noun(entry["class"], 1, entry.get("color", "")), ""
        if "position" in entry:
            name, other = entry["position"][0], asked["include"][entry["position"][1]]["class"]
            where = beside(rng, name, other, held_out) if number[other] == 1 else ""
        said = instruction(rng, "add", held_out, old="", new=new, where=where or "{where}")
        return said.replace(" {where}", "")  # wherever it fits
    return NOTHING


def agrees(des: str, things: Sequence[Thing]) -> bool:
    """Whether a description tells of these objects, of no others, and only of relations that they have."""
    try:
        told = read_description(des)
    except UnreadableError:
        return False
    if told.bag != Counter((t.kind, t.colour) for t in things):
        return False
    return all(found == stated.name for stated, found in places(told, things))


def places(told: Description, things: Sequence[Thing]) -> list[tuple[Relation, str]]:
    """Every relation that is stated, with the one that these objects have; "" where theirs is not clear."""
    by_kind = {t.kind: t for t in things}
    return [(r, relation(by_kind[r.kind], by_kind[r.other])) for r in told.relations]
