"""What a picture on the way to a scene shows, whether it goes against its prompt or its plan, and what an oracle would say.

A picture is faulty where it contradicts the prompt (another colour, place or number, or an object that nobody asked for), or
lacks an object that its plan tells of and the prompt asks for. What no plan has told of yet is to come, and no fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from PIL import Image

from editkit.data.traces import Inspection, TraceError, parse_plan
from editkit.evaluate.benches.geneval import Detector
from editkit.evaluate.benches.geneval_rules import Box, judge, relations, usable
from editkit.lab.scene_words import noun
from editkit.lab.trace_check import conflicts, next_step, still_to_come
from editkit.lab.trace_reading import Bag, Description, Noun, Relation, UnreadableError, read_description
from editkit.lab.trace_words import AND_THEN, issue


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen.

    Attributes:
        objects: class, colour and box of each.
        correct: whether it is what the prompt asks for, by GenEval's rules.
        atoms: demands met, and demands.
    """

    objects: tuple[tuple[str, str, Box], ...]
    correct: bool
    atoms: tuple[int, int]

    @property
    def bag(self) -> Bag:
        """How many there are of each class and colour."""
        return Counter((kind, colour) for kind, colour, _ in self.objects)


def look(detector: Detector, picture: Image.Image, asked: Mapping[str, Any]) -> Look:
    """Looks at a picture with a line of the prompt file in mind."""
    found = detector.detect(picture)
    verdict = judge(asked, found, lambda chosen: detector.colours(picture, chosen))
    kept = [d for those in usable(found, asked["tag"]).values() for d in those]
    colours = detector.colours(picture, kept)
    objects = tuple((d.name, colour, d.box) for d, colour in zip(kept, colours, strict=True))
    return Look(objects, verdict.correct, (sum(a.right for a in verdict.atoms), len(verdict.atoms)))


def inspect(seen: Look, asked: Mapping[str, Any], plan: str, rng: Random) -> Inspection:
    """What is true of a picture, in the words of an inspection.

    Args:
        seen: what is in it.
        asked: what the prompt asks for.
        plan: that it was drawn from; one that cannot be read tells of nothing.
        rng: from which words are drawn.
    """
    found = conflicts(rng, asked, seen.bag, _stated(seen, asked), False)
    issues = [conflict.issue for conflict in found]
    mends = [mend for conflict in found for mend in conflict.mends]
    lacking = _lacking(seen, asked, plan)
    issues += [issue(rng, "missing", False, thing=noun(kind, count)) for kind, count in lacking.items()]
    if lacking:
        mends.append(next_step(rng, asked, _described(seen), False))
    to_come = still_to_come(asked, seen.bag)
    if issues:
        return Inspection(False, "image", tuple(issues), to_come, AND_THEN.join(mends))
    return Inspection(True, "image", deferred=to_come)


def _lacking(seen: Look, asked: Mapping[str, Any], plan: str) -> dict[str, int]:
    """Class -> how many the plan tells of and the picture has not, as far as the prompt asks for them."""
    try:
        told = read_description(parse_plan(plan)[1]).bag
    except (TraceError, UnreadableError):
        return {}
    there = Counter(kind for kind, _, _ in seen.objects)
    planned: Counter[str] = Counter()
    for (kind, _), count in told.items():
        planned[kind] += count
    wanted = {entry["class"]: min(entry["count"], planned[entry["class"]]) for entry in asked["include"]}
    return {kind: count - there[kind] for kind, count in wanted.items() if count > there[kind]}


def _described(seen: Look) -> Description:
    return Description(tuple(Noun(count, kind, colour) for (kind, colour), count in seen.bag.items()))


def _stated(seen: Look, asked: Mapping[str, Any]) -> list[Relation]:
    """Where the objects stand whose places are asked for: as asked, where GenEval's rules or the nearer axis allow it."""
    by_kind: dict[str, list[Box]] = {}
    for kind, _, box in seen.objects:
        by_kind.setdefault(kind, []).append(box)
    found = []
    for entry in asked["include"]:
        if "position" not in entry:
            continue
        name, other = entry["position"][0], asked["include"][entry["position"][1]]["class"]
        a, b = by_kind.get(entry["class"], []), by_kind.get(other, [])
        if len(a) == len(b) == 1:
            clear = relations(a[0], b[0]) or {_towards(a[0], b[0])}
            found.append(Relation(entry["class"], name if name in clear else min(clear), other))
    return found


def _towards(a: Box, b: Box) -> str:
    """The direction of `a`, seen from `b`, along the longer axis."""
    across, down = (a[i] + a[i + 2] - b[i] - b[i + 2] for i in (0, 1))
    if abs(across) >= abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"
