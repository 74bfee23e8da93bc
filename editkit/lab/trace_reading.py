"""Reads the words of plan traces back: from text to the objects it tells of, or a reason why nobody can say.

What a model writes is judged by its words alone, so this reads all that `editkit.lab.trace_words` and `editkit.lab.scene_words`
can say, in the phrasings for training and in those held out, and refuses the rest.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from editkit.lab.scene_art import COLOURS, GLYPHS
from editkit.lab.scene_words import EDITS, FRAMES, NUMBERS, RELATIONS, in_place, plural
from editkit.lab.scenes import OPPOSITE
from editkit.lab.trace_words import AND_THEN, AT_ONCE, BEGINNINGS, DESCRIPTIONS, NOTHING, Phrasings, What

Bag = Counter[tuple[str, str]]  # (class, colour) -> how many; colour "" = not said


class UnreadableError(ValueError):
    """A text that is no description, or no instruction, of this world."""


@dataclass(frozen=True, slots=True)
class Noun:
    """Some objects: "two red apples". Colour "" = not said."""

    count: int
    kind: str
    colour: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Which object is meant: "the red apple in the top left". Colour and place "" = not said.

    `extra`: "the extra apple", any one of those.
    """

    kind: str
    colour: str = ""
    place: str = ""
    extra: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """That one object is somewhere, seen from another; classes, of which there is one object each."""

    kind: str
    name: str
    other: str

    def said_of(self, kind: str, other: str) -> str:
        """The relation of these two classes in this order; "" where it speaks of others."""
        if (self.kind, self.other) == (kind, other):
            return self.name
        return OPPOSITE[self.name] if (self.other, self.kind) == (kind, other) else ""


@dataclass(frozen=True, slots=True)
class Description:
    """A whole picture in words: what there is, and which relations were stated."""

    nouns: tuple[Noun, ...]
    relations: tuple[Relation, ...] = ()

    @property
    def bag(self) -> Bag:
        found: Bag = Counter()
        for n in self.nouns:
            found[n.kind, n.colour] += n.count
        return found


@dataclass(frozen=True, slots=True)
class Command:
    """One instruction.

    Attributes:
        what: the kind of edit.
        old: what is changed; of "add" None. Of "swap" one of the two.
        other: of "swap" the other one.
        added: of "add" what is new.
        colour: of "recolour" the new one.
        beside: (relation, of what), where a place is told so.
        place: a ninth of the picture, where it is told so.
    """

    what: What
    old: Ref | None = None
    other: Ref | None = None
    added: Description | None = None
    colour: str = ""
    beside: tuple[str, Ref] | None = None
    place: str = ""


_SINGULAR = {plural(kind): kind for kind in GLYPHS} | {kind: kind for kind in GLYPHS}
_COUNTS = {"a": 1, "an": 1} | {word: number for number, word in enumerate(NUMBERS) if number}
_SAID = {words: name for table in RELATIONS for name, several in table.items() for words in several}
_NINTHS = [f"{down} {across}".strip() or "centre" for down in ("top", "", "bottom") for across in ("left", "", "right")]
_PLACES = {in_place(place): place for place in _NINTHS}


def _one_of(words: Sequence[str] | Mapping[str, object]) -> str:
    return "(?:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


_COLOUR, _KIND, _REL, _PLACE = (_one_of(w) for w in (COLOURS, GLYPHS, _SAID, _PLACES))
_NOUN = rf"(?:{_one_of(_COUNTS)} (?:{_COLOUR} )?{_one_of(_SINGULAR)})"
_REF = rf"(?:(?:extra )?(?:{_COLOUR} )?{_KIND}(?: {_PLACE})?)"
_WHERE = rf"(?:{_REL} the {_REF}|{_PLACE})"
_READ_NOUN = re.compile(rf"({_one_of(_COUNTS)}) (?:({_COLOUR}) )?({_one_of(_SINGULAR)})")
_READ_REF = re.compile(rf"(extra )?(?:({_COLOUR}) )?({_KIND})(?: ({_PLACE}))?")
_READ_WHERE = re.compile(rf"(?:({_REL}) the ({_REF})|({_PLACE}))")
_CLAUSE = re.compile(rf"the ({_KIND}) ({_REL}) the ({_KIND})")
_PAIR = re.compile(rf"({_NOUN}) ({_REL}) ({_NOUN})")
_NOUNS = re.compile(rf"(?:{_NOUN}, )*(?:{_NOUN} and )?{_NOUN}")
_CLAUSES = rf"the {_KIND} {_REL} the {_KIND}"
_STATEMENT = re.compile(rf"({_NOUNS.pattern})(?:, ((?:{_CLAUSES}, )*(?:{_CLAUSES} and )?{_CLAUSES}))?")


def read_description(text: str) -> Description:
    """The picture that a description tells of.

    Raises:
        UnreadableError: it is none, or contradicts itself.
    """
    return _framed(_tidy(text), _frames(DESCRIPTIONS) + _frames(FRAMES))


def read_commands(text: str) -> list[Command]:
    """The instructions of a step or of a correction, in order; none where nothing is to be changed.

    Raises:
        UnreadableError: one of them is none.
    """
    tidy = _tidy(text)
    return [] if tidy == NOTHING else [_command(part) for part in tidy.split(AND_THEN)]


def perform(bag: Bag, commands: Sequence[Command]) -> Bag | None:
    """What there is afterwards; None where an instruction speaks of something that is not there."""
    found = Counter(bag)
    for command in commands:
        if command.beside and _meant(found, command.beside[1]) is None:
            return None
        if command.added is not None:
            found += command.added.bag
            continue
        assert command.old is not None
        meant = _meant(found, command.old)
        if meant is None or (command.other and _meant(found, command.other) is None):
            return None
        if command.what in ("remove", "recolour"):
            found[meant] -= 1
        if command.what == "recolour":
            found[meant[0], command.colour] += 1
        found = +found
    return found


def _meant(bag: Bag, ref: Ref) -> tuple[str, str] | None:
    """Which of these a reference means; None where none fits."""
    fits = [t for t in bag if t[0] == ref.kind and (not ref.colour or t[1] in ("", ref.colour))]
    return fits[0] if fits else None


def _tidy(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


def _framed(text: str, frames: Sequence[re.Pattern[str]]) -> Description:
    """The statement inside the first frame that holds one."""
    for frame in frames:
        found = frame.fullmatch(text)
        if found and (read := _statement(found[1])) is not None:
            return read
    raise UnreadableError(
        f'found "{text[:80]}"; expected words for objects of this world, such as "a red apple and a blue fish"'
    )


def _statement(text: str) -> Description | None:
    pair = _PAIR.fullmatch(text)
    if pair:
        first, other = _noun(pair[3]), _noun(pair[1])
        return _consistent(Description((first, other), (Relation(other.kind, _SAID[pair[2]], first.kind),)))
    found = _STATEMENT.fullmatch(text)
    if found is None:
        return None
    nouns = tuple(_noun(n[0]) for n in _READ_NOUN.finditer(found[1]))
    clauses = _CLAUSE.finditer(found[2] or "")
    return _consistent(Description(nouns, tuple(Relation(c[1], _SAID[c[2]], c[3]) for c in clauses)))


def _consistent(read: Description) -> Description:
    """The description itself, if its relations are of objects that it names, one of a class, and agree."""
    kinds = Counter({k: sum(n.count for n in read.nouns if n.kind == k) for k in {n.kind for n in read.nouns}})
    for stated in read.relations:
        for kind in (stated.kind, stated.other):
            if kinds[kind] != 1:
                raise UnreadableError(f'found "the {kind}" where {kinds[kind]} are told of; expected one')
        if any(other.said_of(stated.kind, stated.other) not in ("", stated.name) for other in read.relations):
            raise UnreadableError(f"found two places for the {stated.kind}, seen from the {stated.other}; expected one")
    return read


def _noun(text: str) -> Noun:
    found = _READ_NOUN.fullmatch(text)
    assert found is not None
    return Noun(_COUNTS[found[1]], _SINGULAR[found[3]], found[2] or "")


def _ref(text: str) -> Ref:
    found = _READ_REF.fullmatch(text)
    assert found is not None
    return Ref(found[3], found[2] or "", _PLACES.get(found[4] or "", ""), bool(found[1]))


def _command(text: str) -> Command:
    for what, pattern in _patterns():
        found = pattern.fullmatch(text)
        if found is None:
            continue
        old, new, where = (found.groupdict().get(name) for name in ("old", "new", "where"))
        at = _READ_WHERE.fullmatch(where) if where else None
        beside = (_SAID[at[1]], _ref(at[2])) if at and at[1] else None
        place = _PLACES[at[3]] if at and at[3] else ""
        if what == "add":
            return Command(what, added=Description((_noun(new or ""),)), beside=beside, place=place)
        told = _ref(old or "")
        if what == "swap":
            return Command(what, told, other=_ref(new or ""))
        return Command(what, told, colour=(new or "") if what == "recolour" else "", beside=beside, place=place)
    try:
        return Command("add", added=_framed(text, _frames(AT_ONCE)))
    except UnreadableError as error:
        raise UnreadableError(
            f'found "{text[:80]}"; expected an instruction such as "add a red apple in the centre"'
        ) from error


@cache
def _patterns() -> list[tuple[What, re.Pattern[str]]]:
    """Every template of an instruction as a pattern with the words of this world in its places."""
    slots: dict[What, dict[str, str]] = {
        "add": {"new": _NOUN, "where": _WHERE},
        "remove": {"old": _REF},
        "recolour": {"old": _REF, "new": _COLOUR},
        "move": {"old": _REF, "where": _WHERE},
        "swap": {"old": _REF, "new": _REF},
    }
    found = []
    for what, inside in slots.items():
        templates = [t for table in EDITS[what] for t in table]
        if what == "add":
            templates += [t for table in BEGINNINGS for t in table]
            # what is still to come may be asked for wherever it fits
            templates += [t.replace(" {where}", "") for t in templates]
        found += [(what, re.compile(_filled(template, inside))) for template in dict.fromkeys(templates)]
    return found


@cache
def _frames_of(templates: tuple[str, ...]) -> list[re.Pattern[str]]:
    longest_first = sorted(templates, key=len, reverse=True)
    return [re.compile(_filled(template, {"scene": ".+"}, capture=True)) for template in longest_first]


def _frames(table: Phrasings) -> list[re.Pattern[str]]:
    return _frames_of((*table[0], *table[1]))


def _filled(template: str, slots: Mapping[str, str], *, capture: bool = False) -> str:
    return "".join(_pieces(template, slots, capture))


def _pieces(template: str, slots: Mapping[str, str], capture: bool) -> Iterator[str]:
    for piece in re.split(r"(\{\w+\})", template):
        name = piece[1:-1]
        if not (piece.startswith("{") and name in slots):
            yield re.escape(piece)
        elif capture:
            yield f"({slots[name]})"
        else:
            yield f"(?P<{name}>{slots[name]})"
