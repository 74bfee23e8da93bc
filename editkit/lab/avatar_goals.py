"""Planning and inspecting in the avatars world, by its grammar and the attribute reader: no chat model is asked.

A caption says what a picture shall show; the edits that lead there from what a picture shows are enumerated, and what a picture
lacks is read from it. Between the two stands the reader, a network that may err: plans and verdicts are as good as its reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from editkit.data.traces import Inspection
from editkit.errors import UserError
from editkit.lab.avatar_edits import Edit, phrase
from editkit.lab.avatar_meaning import single_edits
from editkit.lab.avatar_words import IN_TRAINING, MEDIUM, caption, in_good_grammar
from editkit.lab.avatars import STYLES, Avatar, normalise

HIDDEN = "hidden"
_BETWEEN = re.compile(r",\s*and\s+|,\s*|\s+and\s+")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a caption asks for.

    Attributes:
        style: of the avatar.
        facts: attribute -> word, of those that the caption mentions.
    """

    style: str
    facts: Mapping[str, str]


def read_goal(text: str) -> Goal:
    """Reads a caption as the world writes them, whole or partial: "a flat portrait with a red bun and sunglasses".

    Raises:
        UserError: it is none, it contradicts itself, or it asks for what nobody could see.
    """
    said = text.strip().rstrip(".").lower()
    style = next((s for s, medium in MEDIUM.items() if said == medium or said.startswith(f"{medium} with ")), None)
    if style is None:
        starts = ", ".join(f'"{medium} with"' for medium in MEDIUM.values())
        raise UserError(
            f'the prompt: found "{text[:60]}"; without a chat model expected a caption of an avatar, which begins with one of '
            f"{starts}"
        )
    facts: dict[str, str] = {}
    for detail in filter(None, _BETWEEN.split(said.removeprefix(MEDIUM[style]).removeprefix(" with "))):
        meant = _details(style).get(in_good_grammar(detail))
        if meant is None:
            example = caption(normalise(style, _defaults(style))).partition(" with ")[2]
            raise UserError(f'the prompt: found "{detail}"; of {MEDIUM[style]} expected details such as "{example}"')
        for name, word in meant.items():
            if facts.setdefault(name, word) != word:
                raise UserError(f"the prompt: found {name} {facts[name]} and {word}; expected one of them")
    shown = normalise(style, {**_defaults(style), **facts}).facts
    for name, word in facts.items():
        if shown.get(name) != word:
            raise UserError(f"the prompt: found {name} {word}, which something else that it asks for hides; leave one out")
    return Goal(style, facts)


def seen_as(reading: Mapping[str, str]) -> Avatar:
    """The avatar of a reading (see `editkit.lab.judges`); a word that its style does not have counts as the default."""
    style = reading["style"]
    words = {a.name: reading[a.name] if reading[a.name] in a.values else a.default for a in STYLES[style].attributes}
    return normalise(style, words)


def edits_towards(now: Avatar, facts: Mapping[str, str]) -> Iterator[tuple[Avatar, Edit]]:
    """The edits, one attribute each, after which an avatar shows these facts; each with the avatar before it.

    What no instruction changes, such as the skin, is left as it is.
    """
    while True:
        edit = next(single_edits(now, now.with_values(facts)), None)
        if edit is None:
            return
        yield now, edit
        now = now.with_values(edit.changes)


def plan_edits(now: Avatar, goal: Goal, most: int, rng: Random) -> list[tuple[str, str]]:
    """(instruction, description of the whole picture after it) of every step from an avatar to a goal.

    Args:
        now: what the picture to begin with shows.
        goal: of the same style.
        most: steps; where there are more edits, the first steps do two at once.
        rng: chooses the phrasings, among those that editors are trained on.

    Raises:
        UserError: no edits lead there.
    """
    if now.style != goal.style:
        raise UserError(
            f"--start: found {MEDIUM[now.style]}; the prompt asks for {MEDIUM[goal.style]}, and edits do not change that"
        )
    edits = list(edits_towards(now, goal.facts))
    end = now.with_values({name: word for _, edit in edits for name, word in edit.changes.items()})
    for name, word in goal.facts.items():
        if end.facts.get(name) != word:
            raise UserError(
                f"--start: found {name} {end.facts.get(name, HIDDEN)}; the prompt asks for {word}, to which no edit leads"
            )
    steps = []
    while edits:
        count = 2 if len(edits) > most - len(steps) else 1
        chosen, edits = edits[:count], edits[count:]
        before = chosen[0][0]
        after = before.with_values({name: word for _, edit in chosen for name, word in edit.changes.items()})
        steps.append((_instruction(rng, before, [edit for _, edit in chosen]), in_good_grammar(caption(after))))
    return steps[:most]


def inspect_reading(reading: Mapping[str, str], prompt: str, description: str, rng: Random) -> Inspection:
    """What is said of a picture after reading it.

    Args:
        reading: of the picture, attribute -> word.
        prompt: what the finished picture shall show, as a caption.
        description: what this picture shall show, as a caption.
        rng: chooses the phrasing of the correction.
    """
    wanted, seen, asked = read_goal(description), seen_as(reading), read_goal(prompt)
    deferred = tuple(_words(asked, name) for name, word in asked.facts.items() if wanted.facts.get(name, word) != word)
    if seen.style != wanted.style:
        found, expected = MEDIUM[seen.style], MEDIUM[wanted.style]
        return Inspection(False, "image", (f"it is {found} instead of {expected}",), deferred, f"make it {expected}")
    wrong = [name for name, word in wanted.facts.items() if seen.facts.get(name) != word]
    if not wrong:
        return Inspection(True, deferred=deferred)
    issues = tuple(f"{name}: {seen.facts.get(name, HIDDEN)} instead of {wanted.facts[name]}" for name in wrong)
    found = next(edits_towards(seen, wanted.facts), None)
    refine = _instruction(rng, found[0], [found[1]]) if found else f"change the {wrong[0]} to {wanted.facts[wrong[0]]}"
    return Inspection(False, "image", issues, deferred, refine)


def _instruction(rng: Random, before: Avatar, edits: Sequence[Edit]) -> str:
    return in_good_grammar(phrase(rng, before, edits, IN_TRAINING))


def _words(goal: Goal, name: str) -> str:
    """A fact as a caption says it."""
    avatar = normalise(goal.style, {**_defaults(goal.style), **goal.facts})
    return in_good_grammar(caption(avatar, only=[name]).partition(" with ")[2])


def _defaults(style: str) -> dict[str, str]:
    return {a.name: a.default for a in STYLES[style].attributes}


@cache
def _details(style: str) -> dict[str, dict[str, str]]:
    """What every detail of a caption means, found by writing all of them: "a red bun" -> hair and hair colour."""
    meanings: dict[str, dict[str, str]] = {}
    alone: dict[str, dict[str, str]] = {}

    def put(into: dict[str, dict[str, str]], facts: Mapping[str, str], mentioned: Mapping[str, str]) -> None:
        avatar = normalise(style, {**_defaults(style), **facts})
        if mentioned.items() <= avatar.facts.items():
            detail = caption(avatar, only=list(mentioned)).partition(" with ")[2]
            into.setdefault(in_good_grammar(detail), dict(mentioned))

    for attribute in STYLES[style].attributes:
        colours = [a for a in STYLES[style].attributes if a.name == f"{attribute.name} colour"]
        for word in attribute.values:
            facts = {attribute.name: word}
            put(meanings, facts, facts)
            for colour, shade in ((c, s) for c in colours for s in c.values):
                both = {**facts, colour.name: shade}
                put(meanings, both, both)
                put(alone, both, {colour.name: shade})
    return {**alone, **meanings}  # "a red turban" means the turban too
