"""What an instruction means in the avatars world: whether a text asks for exactly the edit between two avatars.

Decided, not guessed: the edits that lead from one to the other are enumerated, and the text is held against every phrasing of
each, those that are held out for evaluation too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from editkit.lab.avatar_edits import Edit, worded
from editkit.lab.avatar_words import HELD_OUT, IN_TRAINING, SUBJECTS, in_good_grammar
from editkit.lab.avatars import STYLES, Attribute, Avatar, is_hidden, normalise


def asks_for(text: str, source_facts: Mapping[str, str], target_facts: Mapping[str, str]) -> bool:
    """Whether a text is a phrasing of the edit that turns the one avatar into the other: one change, two, or none.

    Args:
        text: an instruction, in lower case as the grammar writes it.
        source_facts, target_facts: of the two avatars (see `editkit.lab.avatars.Avatar.facts`).
    """
    source, target = _avatar(source_facts), _avatar(target_facts)
    if source.style != target.style:
        return False
    return any(text in _phrasings(source, edits) or _is_both(text, source, edits) for edits in edits_between(source, target))


def edits_between(source: Avatar, target: Avatar) -> Iterator[tuple[Edit, ...]]:
    """Every sequence of at most two edits, as the world draws them, that turns `source` into `target`."""
    if source == target:
        yield ()
    for first in single_edits(source, target):
        between = source.with_values(first.changes)
        if between == target:
            yield (first,)
        for second in single_edits(between, target):
            if not set(first.changes) & set(second.changes) and between.with_values(second.changes) == target:
                yield first, second


def single_edits(now: Avatar, target: Avatar) -> Iterator[Edit]:
    """The edits of one attribute after which it is as in `target`."""
    for attribute in STYLES[now.style].attributes:
        old, new = now.values[attribute.name], target.values[attribute.name]
        if old == new or not attribute.editable or is_hidden(attribute, now.values):
            continue
        after = now.with_values({attribute.name: new})
        uncovered = [
            a.name
            for a in STYLES[now.style].attributes
            if a.kind == "colour" and a.name in after.facts and a.name not in now.facts
        ]
        changes = {name: target.values[name] for name in (attribute.name, *uncovered)}
        if all(target.facts.get(name) == value for name, value in changes.items() if value != "none"):
            yield Edit(_category(attribute, old, new), attribute.name, changes)


def _category(attribute: Attribute, old: str, new: str) -> str:
    if attribute.kind in ("colour", "background", "expression"):
        return attribute.kind
    return "add" if old == "none" else "remove" if new == "none" else "replace"


def _phrasings(source: Avatar, edits: tuple[Edit, ...]) -> set[str]:
    """Of no edit or of one."""
    if len(edits) > 1:
        return set()
    subjects = SUBJECTS[source.style]
    if not edits:
        return {text.format(who=who) for text in _templates("keep") for who in subjects}
    (edit,) = edits
    return {in_good_grammar(worded(text, who, source, edit)) for text in _templates(edit.category) for who in subjects}


def _is_both(text: str, source: Avatar, edits: tuple[Edit, ...]) -> bool:
    """Whether a text joins a phrasing of the first edit and one of the second."""
    if len(edits) != 2:
        return False
    first, second = (_phrasings(source, (edit,)) for edit in edits)
    for template in _templates("two"):
        before, _, rest = template.partition("{first}")
        between, _, after = rest.partition("{second}")
        if not (text.startswith(before) and text.endswith(after)):
            continue
        inner = text[len(before) : len(text) - len(after)]
        cuts = (i for i in range(len(inner)) if inner.startswith(between, i))  # "and" may stand in the phrasings too
        if any(inner[:i] in first and inner[i + len(between) :] in second for i in cuts):
            return True
    return False


def _templates(category: str) -> tuple[str, ...]:
    return (*IN_TRAINING[category], *HELD_OUT[category])


def _avatar(facts: Mapping[str, str]) -> Avatar:
    defaults = {a.name: a.default for a in STYLES[facts["style"]].attributes}
    return normalise(facts["style"], {**defaults, **facts})
