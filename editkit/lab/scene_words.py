"""The words of the scenes world: noun phrases, captions, instructions, and which phrasings are held out for evaluation.

A caption says what a line of GenEval's prompt file asks for (see `editkit.lab.scene_prompts`), in one of several frames and
with one of several ways to say a relation. The frame "a photo of" and the words "left of", "above" are GenEval's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")

# (for training, held out for evaluation)
FRAMES: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("a photo of {scene}", "a picture of {scene}", "an image of {scene}", "{scene}", "a drawing of {scene}", "draw {scene}",
     "show {scene}", "a scene with {scene}", "a picture that shows {scene}", "{scene} on a grey ground",
     "make a picture of {scene}", "this is {scene}"),
    ("an illustration of {scene}", "please paint {scene}", "{scene} in front of grey", "i want to see {scene}"),
)  # fmt: skip
RELATIONS: tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[str, ...]]] = (
    {
        "left of": ("left of", "to the left of", "on the left of"),
        "right of": ("right of", "to the right of", "on the right of"),
        "above": ("above", "over", "higher than"),
        "below": ("below", "under", "lower than"),
    },
    {
        "left of": ("on the left side of",), "right of": ("on the right side of",),
        "above": ("somewhere above",), "below": ("somewhere below",),
    },
)  # fmt: skip
EDITS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "add": (
        ("add {new} {where}", "put {new} {where}", "draw {new} {where}", "place {new} {where}", "{new} {where}, please",
         "there should be {new} {where}", "insert {new} {where}", "show {new} {where} too", "have {new} {where}",
         "put in {new} {where}"),
        ("could you add {new} {where}", "let there be {new} {where}", "i want {new} {where}"),
    ),
    "remove": (
        ("remove the {old}", "take the {old} away", "erase the {old}", "delete the {old}", "get rid of the {old}",
         "no {old}", "the same without the {old}", "take out the {old}", "leave out the {old}", "wipe the {old} away"),
        ("drop the {old}", "the {old} should be gone", "i want no {old}"),
    ),
    "recolour": (
        ("make the {old} {new}", "turn the {old} {new}", "change the {old} to {new}", "paint the {old} {new}",
         "colour the {old} {new}", "recolour the {old} in {new}", "the {old} should be {new}", "{new} for the {old}",
         "change the colour of the {old} to {new}", "switch the {old} to {new}"),
        ("let the {old} be {new}", "set the colour of the {old} to {new}", "i want the {old} in {new}"),
    ),
    "move": (
        ("move the {old} {where}", "put the {old} {where}", "the {old} should be {where}", "place the {old} {where}",
         "shift the {old} so that it is {where}", "bring the {old} {where}", "the {old} goes {where}",
         "take the {old} and put it {where}", "have the {old} {where}"),
        ("let the {old} be {where}", "could the {old} be {where}", "i want the {old} {where}"),
    ),
    "swap": (
        ("swap the {old} and the {new}", "exchange the {old} and the {new}", "let the {old} and the {new} change places",
         "swap the places of the {old} and the {new}", "put the {old} where the {new} is and the other way round",
         "the {old} and the {new} should trade places", "switch the {old} and the {new}",
         "the {old} and the {new} the other way round"),
        ("the {old} for the {new}, and back", "interchange the {old} and the {new}",
         "i want the {old} and the {new} to swap places"),
    ),
    "recount": (
        ("make it {new}", "there should be {new}", "change {old} to {new}", "draw {new} instead of {old}", "{new}, not {old}",
         "from {old} to {new}", "show {new}", "{new} instead of {old}", "turn {old} into {new}"),
        ("let there be {new}", "i want {new}", "could it be {new}"),
    ),
}  # fmt: skip


def plural(kind: str) -> str:
    """GenEval's rule: "es" behind a hiss, "s" behind the rest."""
    return kind + ("es" if kind.endswith(("s", "sh", "ch", "x")) else "s")


def noun(kind: str, count: int = 1, colour: str = "") -> str:
    """A noun phrase: "an apple", "a red apple", "three red apples"."""
    words = f"{colour} {kind if count == 1 else plural(kind)}".strip()
    if count != 1:
        return f"{NUMBERS[count]} {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def count_of(kind: str, count: int) -> str:
    """How many: "one apple", "two apples"."""
    return noun(kind, count) if count != 1 else f"one {kind}"


def join(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def statement(include: Sequence[Mapping[str, Any]], relations: Mapping[str, str]) -> str:
    """What the entries of an `include` ask for, as one noun phrase, with these words for the relations."""
    nouns = [noun(e["class"], e["count"], e.get("color", "")) for e in include]
    if len(include) == 2 and include[1].get("position", ("", -1))[1] == 0:
        return f"{nouns[1]} {relations[include[1]['position'][0]]} {nouns[0]}"
    clauses = [
        f"the {e['class']} {relations[e['position'][0]]} the {include[e['position'][1]]['class']}"
        for e in include
        if "position" in e
    ]
    return f"{join(nouns)}, {join(clauses)}" if clauses else join(nouns)


def official_prompt(asked: Mapping[str, Any]) -> str:
    """The prompt in GenEval's grammar."""
    return FRAMES[0][0].format(scene=statement(asked["include"], {name: name for name in RELATIONS[0]}))


def caption(rng: Random, asked: Mapping[str, Any], held_out: bool) -> str:
    """Says what is asked for in words drawn anew; `held_out`: in those that training never uses."""
    relations = {name: rng.choice(words) for name, words in RELATIONS[held_out].items()}
    return rng.choice(FRAMES[held_out]).format(scene=statement(asked["include"], relations))


def instruction(rng: Random, category: str, held_out: bool, **words: str) -> str:
    """An edit in words drawn anew; `words` are what the templates of its kind name."""
    return rng.choice(EDITS[category][held_out]).format(**words)


def beside(rng: Random, name: str, other: str, held_out: bool) -> str:
    """Where something goes: "to the left of the apple"."""
    return f"{rng.choice(RELATIONS[held_out][name])} the {other}"


def in_place(place: str) -> str:
    """The same where nothing is there to be beside: "in the top left", "at the top", "at the left"."""
    return f"{'at' if place in ('top', 'bottom', 'left', 'right') else 'in'} the {place}"
