"""The words of the avatars world: captions, instructions, and which of them are held out for evaluation.

Every kind of edit has at least eight phrasings for training and three that only evaluation sees. A phrasing is a template
over the words of the edit: `{part}`, `{old}` and `{new}` are noun phrases, `{who}` is the subject.
"""

from __future__ import annotations

import re
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


# Further phrasings for training on edits alone. The captions, from which the text tower learned, have those above; with these a
# model sees the words of the held-out ones in other company, and verbs enough to guess what another one means.
FURTHER_PHRASINGS: dict[str, tuple[str, ...]] = {
    "colour": (
        "set the {part} to {new}",
        "change the colour of the {part} to {new}",
        "i would like the {part} to be {new}",
        "i want a {new} {part}",
        "could the {part} be {new}",
        "do the {part} in {new}",
        "{new} for the {part}",
        "dye the {part} {new}",
        "show the {part} in {new}",
        "let {who} have a {new} {part}",
        "the colour of the {part} should be {new}",
        "the {part} in {new}, please",
        "can you make the {part} {new}",
    ),
    "add": (
        "can you add {new}",
        "could you draw {new} on {who}",
        "get {who} {new}",
        "{who} should have {new}",
        "include {new}",
        "i want {who} to have {new}",
        "i want to see {new}",
        "set {new} on {who}",
        "{who} could use {new}",
        "show {new} too",
        "now with {new}",
        "have {new} added to {who}",
        "i would like {who} with {new}",
    ),
    "remove": (
        "i want the {old} removed",
        "the {old} should go",
        "the {old} must disappear",
        "the {old} has to go",
        "i do not want the {old}",
        "no more {old}",
        "there should be no {old}",
        "{who} should have no {old}",
        "show {who} without the {old}",
        "leave out the {old}",
        "throw out the {old}",
        "wipe away the {old}",
        "cut the {old}",
        "strip off the {old}",
        "let the {old} vanish",
        "could the {old} go",
    ),
    "replace": (
        "i would like {new} instead of the {old}",
        "not the {old} but {new}",
        "trade the {old} for {new}",
        "make the {old} into {new}",
        "let {who} have {new} instead of the {old}",
        "could the {old} be {new}",
        "no {old}, {new} please",
        "substitute {new} for the {old}",
        "i want {new} in place of the {old}",
        "show {who} with {new} instead of the {old}",
        "the {old} should become {new}",
        "let it be {new}, no longer the {old}",
        "get rid of the {old} and give {who} {new}",
    ),
    "background": (
        "i would like a {new} background",
        "set the background to {new}",
        "could the background be {new}",
        "show {who} on a {new} background",
        "do the background in {new}",
        "{new} as the background",
        "colour the background {new}",
        "change the colour of the background to {new}",
        "i want {new} behind {who}",
        "a background in {new}, please",
        "fill the background with {new}",
        "the backdrop should be {new}",
        "paint the backdrop {new}",
    ),
    "expression": (
        "could {who} have {new}",
        "i would like {new}",
        "i want {who} to {verb}",
        "show {new}",
        "set the expression to {new}",
        "{who} should {verb}",
        "can {who} {verb}",
        "turn the expression into {new}",
        "i want to see {new}",
        "draw {new}",
        "{who} should have {new}",
        "please {verb}",
        "let there be {new}",
    ),
    "keep": (
        "i do not want any changes",
        "leave it",
        "keep everything",
        "nothing to do",
        "let the picture stay as it is",
        "do not edit anything",
        "touch nothing",
        "i want the same picture",
        "make no changes",
        "everything is fine as it is",
        "no change is needed",
        "let nothing change",
        "show the same picture",
    ),
    "two": (
        "{first}. {second}",
        "{first}, also {second}",
        "{first} as well as {second}",
        "do two things: {first}, {second}",
        "first {first}; next {second}",
        "at once {first} and {second}",
        "{first}, next {second}",
        "i want both: {first} and {second}",
        "not only {first} but also {second}",
        "{first} and together with it {second}",
        "two edits: {first}; {second}",
        "after {first}, {second}",
        "{first}; that done, {second}",
    ),
}

IN_CAPTIONS: Mapping[str, Sequence[str]] = {kind: training for kind, (training, _) in PHRASINGS.items()}
IN_TRAINING: Mapping[str, Sequence[str]] = {
    kind: training + FURTHER_PHRASINGS[kind] for kind, (training, _) in PHRASINGS.items()
}
HELD_OUT: Mapping[str, Sequence[str]] = {kind: held_out for kind, (_, held_out) in PHRASINGS.items()}


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


def in_good_grammar(text: str) -> str:
    """What a template over fixed noun phrases gets wrong: "a afro", "could them wink"."""
    text = re.sub(r"\b(could|can) them\b", r"\1 they", re.sub(r"\bthem (should|could)\b", r"they \1", text))
    return re.sub(r"\ba (?=afro|orange)", "an ", text)


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
