"""Edits of avatars: what may be asked, what the target then looks like, and the examples that the builder writes.

`edit_pair(...)` and `captioned_image(...)` are pure functions of (seed, split, index): any process can make any example,
and the same three numbers give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image

from editkit.data.examples import CaptionedImage, EditPair
from editkit.data.pictures import Picture, png_bytes
from editkit.lab.avatar_words import (
    HELD_OUT,
    IN_CAPTIONS,
    IN_TRAINING,
    SUBJECTS,
    VERBS,
    bare,
    caption,
    in_good_grammar,
    noun,
    part,
)
from editkit.lab.avatars import STYLES, Attribute, Avatar, is_drawable, is_hidden, render, sample_avatar

# How often each kind of edit is drawn; kinds of one attribute follow from what the avatar has.
CATEGORIES = {"colour": 4, "add": 3, "remove": 2, "replace": 3, "background": 2, "expression": 3, "two": 3, "keep": 1}
NUM_PHRASINGS = 8  # instructions kept with every pair
NUM_CAPTIONS = 6  # captions kept with every picture; the first names everything
INSTRUCTION_SHARE = 0.5  # of the captions behind the first that are worded as an instruction


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of one attribute, before it is put into words.

    `changes` may set a second attribute that the change uncovers: hair on a bald head needs a colour, which is then asked for.
    """

    category: str
    attribute: str
    changes: dict[str, str]


def sample_edit(rng: Random, source: Avatar, category: str) -> Edit | None:
    """Draws an edit of that kind that `source` allows, or None where it allows none."""
    style = STYLES[source.style]
    options = [a for a in style.attributes if a.editable and _allows(source, a, category)]
    if not options:
        return None
    attribute = rng.choice(options)
    now = source.values[attribute.name]
    if category == "remove":
        return Edit(category, attribute.name, {attribute.name: "none"})
    words = [w for w in attribute.values if w not in (now, "none")]
    changes = {attribute.name: rng.choice(words)}
    target = source.with_values(changes)
    for colour in style.attributes:  # a colour that nobody could see before
        shown = colour.name in target.facts and colour.name not in source.facts
        if shown and colour.kind == "colour":
            taken = target.values.get("body colour") if colour.name == "topper colour" else None
            changes[colour.name] = rng.choice([w for w in colour.values if w != taken])
    return Edit(category, attribute.name, changes)


def _allows(source: Avatar, attribute: Attribute, category: str) -> bool:
    if is_hidden(attribute, source.values):
        return False
    now = source.values[attribute.name]
    if category in ("colour", "background", "expression"):
        return attribute.kind == category
    if category == "add":
        return attribute.kind == "optional" and now == "none"
    if category == "remove":
        return attribute.kind == "optional" and now != "none"
    return (attribute.kind == "choice" or (attribute.kind == "optional" and now != "none")) and len(
        [w for w in attribute.values if w not in (now, "none")]
    ) > 0


def phrase(rng: Random, source: Avatar, edits: Sequence[Edit], phrasings: Mapping[str, Sequence[str]]) -> str:
    """Puts one edit, two or none ("keep") into words, with one of these phrasings (see `editkit.lab.avatar_words`)."""
    who = rng.choice(SUBJECTS[source.style])
    if not edits:
        return rng.choice(phrasings["keep"]).format(who=who)
    if len(edits) == 2:
        first, second = (phrase(rng, source, (e,), phrasings) for e in edits)
        return rng.choice(phrasings["two"]).format(first=first, second=second)
    (edit,) = edits
    return worded(rng.choice(phrasings[edit.category]), who, source, edit)


def worded(phrasing: str, who: str, source: Avatar, edit: Edit) -> str:
    """One edit in the words of one phrasing."""
    name, new = edit.attribute, edit.changes[edit.attribute]
    words = {"who": who}
    if edit.category in ("colour", "background"):
        words |= {"new": new, "part": part(name, source.values)}
    else:
        colour = next((v for n, v in edit.changes.items() if n != name), "")
        words["new"] = noun(name, new, colour) if new != "none" else ""
        old = source.values[name]
        words["old"] = bare(noun(name, old)) if old != "none" else ""
        words["verb"] = VERBS.get(name, {}).get(new, "")
    text = phrasing.format(**words)
    if words.get("part", "").endswith(("hair", "s", "ae")):  # "give it a red horns"
        text = text.replace(f" a {new} ", f" {new} ")
    return text.replace("a orange", "an orange")


def sample_category(rng: Random) -> str:
    """Draws a kind of edit as often as `CATEGORIES` says."""
    names, weights = zip(*CATEGORIES.items(), strict=True)
    return rng.choices(names, weights)[0]


def sample_pair(rng: Random, split: str, asked: str = "") -> tuple[Avatar, Avatar, str, tuple[Edit, ...]]:
    """Draws (source, target, category, edits) with both avatars in `split`.

    Args:
        rng: where the draws come from.
        split: "train" or "test".
        asked: the kind of edit; "" = drawn anew for every avatar until one fits, which favours kinds that often fit, most of
            all "keep" in a small split.
    """
    while True:
        source = sample_avatar(rng)
        if source.split != split:
            continue
        category = asked or sample_category(rng)
        edits: list[Edit] = []
        target = source
        for kind in {"keep": (), "two": (None, None)}.get(category, (category,)):
            wanted = kind or rng.choice([k for k in CATEGORIES if k not in ("two", "keep")])
            edit = sample_edit(rng, target, wanted)
            if edit is not None and not any(set(edit.changes) & set(e.changes) for e in edits):
                edits.append(edit)
                target = target.with_values(edit.changes)
        complete = len(edits) == {"keep": 0, "two": 2}.get(category, 1)
        done = all(target.facts.get(n) == v for e in edits for n, v in e.changes.items() if v != "none")
        if complete and done and target.split == split and is_drawable(target):
            return source, target, category, tuple(edits)


def edit_pair(seed: int, split: str, index: int, size: int) -> EditPair:
    """Example `index` of a split: two drawings, the exact mask of what differs, and phrasings of the instruction."""
    rng = Random(f"avatar_edits/{seed}/{split}/{index}")
    source, target, category, edits = sample_pair(rng, split, sample_category(rng))
    before, after = render(source, size), render(target, size)
    differs_HW = (np.asarray(before) != np.asarray(after)).any(axis=2)
    mask = Image.fromarray(np.where(differs_HW, 255, 0).astype(np.uint8))
    phrasings = HELD_OUT if split == "test" else IN_TRAINING
    instructions = [in_good_grammar(phrase(rng, source, edits, phrasings)) for _ in range(NUM_PHRASINGS)]
    return EditPair(
        key=f"{split}-{index:06d}",
        source=_png(before),
        target=_png(after),
        instructions=tuple(dict.fromkeys(instructions)),
        category=category,
        mask=_png(mask),
        source_caption=caption(source),
        target_caption=caption(target),
        source_facts=source.facts,
        target_facts=target.facts,
        licence=STYLES[source.style].licence,
    )


def captioned_image(seed: int, split: str, index: int, size: int) -> CaptionedImage:
    """Picture `index` of a split: a drawing, one full caption, and partial ones, some worded as instructions.

    The instructions are there so that a text encoder trained on these captions knows the language in which edits are asked
    for, as CLIP knows it from the web: "remove the glasses" is a caption of a face without glasses.
    """
    rng = Random(f"avatars/{seed}/{split}/{index}")
    while True:
        avatar = sample_avatar(rng)
        if avatar.split == split:
            break
    captions = [caption(avatar, rng)]
    while len(captions) < NUM_CAPTIONS:
        if rng.random() < INSTRUCTION_SHARE:
            captions.append(_as_if_edited(rng, avatar))
        else:
            names = [n for n in avatar.facts if n != "style"]
            captions.append(caption(avatar, rng, rng.sample(names, rng.randint(1, len(names)))))
    return CaptionedImage(
        key=f"{split}-{index:06d}",
        image=_png(render(avatar, size)),
        captions=tuple(captions),
        facts=avatar.facts,
        licence=STYLES[avatar.style].licence,
    )


def _as_if_edited(rng: Random, avatar: Avatar) -> str:
    """An instruction (training phrasings only) that some other avatar would have become this one by."""
    while True:
        other, _, category, edits = sample_pair(rng, "train")
        if other.style != avatar.style:
            continue
        if category == "keep":
            return phrase(rng, avatar, (), IN_CAPTIONS)
        if category == "two":
            continue
        (edit,) = edits
        if edit.category == "remove":
            if avatar.values[edit.attribute] != "none":
                continue
            return phrase(rng, other, (edit,), IN_CAPTIONS)
        if any(avatar.facts.get(n, "none") in ("none", other.values[n]) for n in edit.changes):
            continue
        return phrase(
            rng,
            other,
            (Edit(edit.category, edit.attribute, {n: avatar.values[n] for n in edit.changes}),),
            IN_CAPTIONS,
        )


def sample_avatars(count: int, *, seed: int, split: str = "test", size: int = 64) -> list[CaptionedImage]:
    """The first `count` captioned pictures of a split."""
    return [captioned_image(seed, split, i, size) for i in range(count)]


def sample_edits(count: int, *, seed: int, split: str = "test", size: int = 64) -> list[EditPair]:
    """The first `count` edit pairs of a split."""
    return [edit_pair(seed, split, i, size) for i in range(count)]


def _png(image: Image.Image) -> Picture:
    return Picture(data=png_bytes(image))
