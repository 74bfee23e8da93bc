"""The words of the avatars world: captions, instructions, and which of them are held out for evaluation.

Every kind of edit has at least eight phrasings for training and three that only evaluation sees. A phrasing is a template
over the words of the edit: `{part}`, `{old}` and `{new}` are noun phrases, `{who}` is the subject.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from editkit.lab.avatars import STYLES, Avatar

SUBJECTS = {
    "critters": ("it", "the monster", "the creature"),
    "personas": ("them", "the person", "this person"),
    "micah": ("them", "the person", "this person"),
}
MEDIUM = {"critters": "a monster", "personas": "a flat portrait", "micah": "an ink portrait"}

# value -> noun phrase; "{c}" is the colour with a space behind it, or nothing
NOUNS: dict[str, dict[str, str]] = {
    "shape": {v: f"a {v} shaped body" for v in ("dome", "block", "tower", "bell", "wedge")},
    "topper": {"horns": "{c}horns", "antennae": "{c}antennae", "round ears": "{c}round ears", "sprout": "a {c}sprout",
               "fin": "a {c}fin"},
    "hair": {"short": "short {c}hair", "long": "long {c}hair", "bob": "a {c}bob", "afro": "a {c}afro",
             "mohawk": "a {c}mohawk", "pigtails": "{c}pigtails", "bun": "a {c}bun", "bald": "a bald head",
             "beanie": "a beanie", "cap": "a cap", "quiff": "a {c}quiff", "fringe": "a {c}fringe",
             "turban": "a {c}turban"},
    "eyewear": {"glasses": "glasses", "sunglasses": "sunglasses"},
    "facial hair": {"beard": "a beard", "moustache": "a moustache"},
    "clothes": {"plain": "a plain {c}shirt", "checkered": "a checkered {c}shirt", "collared": "a collared {c}shirt"},
    "eyes": {"open": "open eyes", "closed": "closed eyes", "winking": "a winking eye", "one eye": "one big eye",
             "three eyes": "three eyes", "angry": "angry eyes"},
    "mouth": {"smile": "a smile", "grin": "a big grin", "frown": "a frown", "surprised": "a surprised mouth",
              "pacifier": "a pacifier", "zigzag": "a zigzag mouth", "buck teeth": "buck teeth",
              "gritted teeth": "gritted teeth"},
}  # fmt: skip
# value -> the same as something to do, for "make them ..."
VERBS: dict[str, dict[str, str]] = {
    "eyes": {"open": "open the eyes", "closed": "close the eyes", "winking": "wink", "one eye": "look with one eye",
             "three eyes": "look with three eyes", "angry": "look angry"},
    "mouth": {"smile": "smile", "grin": "grin", "frown": "frown", "surprised": "look surprised",
              "pacifier": "suck a pacifier", "zigzag": "pull a zigzag mouth", "buck teeth": "show buck teeth",
              "gritted teeth": "grit the teeth"},
}  # fmt: skip

# kind of edit -> (phrasings for training, phrasings held out for evaluation)
PHRASINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "colour": (
        ("make the {part} {new}", "turn the {part} {new}", "change the {part} to {new}", "paint the {part} {new}",
         "colour the {part} {new}", "recolour the {part} in {new}", "the {part} should be {new}",
         "give {who} a {new} {part}", "{new} {part}, please", "switch the {part} colour to {new}"),
        ("let the {part} be {new}", "set the colour of the {part} to {new}", "i want the {part} in {new}"),
    ),
    "add": (
        ("add {new}", "give {who} {new}", "put {new} on {who}", "draw {new}", "let {who} have {new}",
         "add {new} to the picture", "{who} with {new}", "{new}, please", "there should be {new}"),
        ("could {who} get {new}", "show {who} with {new}", "i want {new} added"),
    ),
    "remove": (
        ("remove the {old}", "take the {old} off", "take away the {old}", "no {old}", "get rid of the {old}",
         "erase the {old}", "delete the {old}", "without the {old}", "lose the {old}"),
        ("drop the {old}", "the {old} should be gone", "i want no {old}"),
    ),
    "replace": (
        ("replace the {old} with {new}", "swap the {old} for {new}", "change the {old} to {new}",
         "turn the {old} into {new}", "{new} instead of the {old}", "give {who} {new} instead of the {old}",
         "give {who} {new}", "{new} rather than the {old}", "put {new} in place of the {old}"),
        ("exchange the {old} for {new}", "let the {old} become {new}", "i want {new}, not the {old}"),
    ),
    "background": (
        ("make the background {new}", "turn the background {new}", "change the background to {new}",
         "paint the background {new}", "a {new} background", "put {who} in front of a {new} background",
         "the background should be {new}", "use a {new} background", "{new} behind {who}, please"),
        ("let the background be {new}", "set the backdrop to {new}", "i want a {new} background"),
    ),
    "expression": (
        ("make {who} {verb}", "give {who} {new}", "let {who} {verb}", "{verb}", "change the expression to {new}",
         "have {who} {verb}", "draw {who} with {new}", "change to {new}", "{new}, please"),
        ("could {who} {verb}", "show {who} with {new}", "i want {new}"),
    ),
    "keep": (
        ("leave everything as it is", "change nothing", "keep the picture the same", "do nothing",
         "do not change anything", "no changes, please", "keep {who} exactly like this", "leave the picture alone",
         "everything should stay the same", "no edit"),
        ("let everything be", "do not touch the picture", "i want no changes"),
    ),
    "two": (
        ("{first} and {second}", "{first}, then {second}", "{first} and also {second}", "first {first}, then {second}",
         "{first}; {second}", "{first} plus {second}", "both: {first}, {second}", "{first}, and {second}"),
        ("{first}, after that {second}", "{first} together with {second}", "i want two things: {first}, {second}"),
    ),
}  # fmt: skip


def noun(attribute: str, value: str, colour: str = "") -> str:
    """The noun phrase of a value: `noun("hair", "bun", "red")` is "a red bun"."""
    phrase = NOUNS[attribute][value].format(c=f"{colour} " if colour else "")
    return phrase.replace("a orange", "an orange")


def part(attribute: str, values: Mapping[str, str]) -> str:
    """What a colour or a background belongs to, as one says it of this avatar."""
    if attribute == "hair colour":
        return "turban" if values["hair"] == "turban" else "hair"
    if attribute == "topper colour":
        return bare(noun("topper", values["topper"]))
    return {"body colour": "body", "clothes colour": "shirt", "background": "background"}[attribute]


def bare(phrase: str) -> str:
    """A noun phrase without its article."""
    return phrase.removeprefix("an ").removeprefix("a ")


def caption(avatar: Avatar, rng: Random | None = None, only: Sequence[str] | None = None) -> str:
    """Describes an avatar in one sentence.

    Args:
        avatar: what to describe.
        rng: shuffles the order of the details; None keeps the order of the style.
        only: attributes to mention; None mentions every visible one, and what is absent as "no ...".
    """
    facts = avatar.facts
    wanted = [n for n in facts if n != "style" and (only is None or n in only)]
    details = []
    for name in wanted:
        kind = STYLES[avatar.style].attribute(name).kind
        if kind == "colour" and _owner(name) in wanted:
            continue  # said with the part that wears it
        if kind in ("colour", "background"):
            who = part(name, avatar.values)
            article = "" if who == "hair" or who.endswith(("s", "ae")) else "a "
            details.append(f"{article}{facts[name]} {who}".replace("a orange", "an orange"))
        elif name == "skin":
            details.append(f"{facts[name]} skin")
        elif facts[name] == "none":
            details.append("no " + {"topper": "horns or ears"}.get(name, name))
        else:
            details.append(noun(name, facts[name], facts.get(_colour_of(name), "") if _colour_of(name) in wanted else ""))
    if rng is not None:
        rng.shuffle(details)
    if not details:
        return MEDIUM[avatar.style]
    return f"{MEDIUM[avatar.style]} with {', '.join(details)}"


def _owner(colour: str) -> str:
    return {"hair colour": "hair", "topper colour": "topper", "clothes colour": "clothes"}.get(colour, "")


def _colour_of(name: str) -> str:
    return {"hair": "hair colour", "topper": "topper colour", "clothes": "clothes colour"}.get(name, "")
