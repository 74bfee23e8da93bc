"""What is asked of a scene: GenEval's six categories and `multi`, in GenEval's own form, and the scenes that fulfil it.

The form is a line of GenEval's `evaluation_metadata.jsonl` (Ghosh et al., 2023, arXiv:2310.11513): `tag`, `include` with class,
count, color and position [relation, index of the entry it is seen from], `exclude`, `prompt`. `multi` is ours: three to five
objects, some of their colours, and at least two relations, in the same form, so that the same scorer reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from random import Random
from typing import Any, Literal, get_args

from editkit.lab.scene_art import COLOURS, GLYPHS
from editkit.lab.scene_words import official_prompt
from editkit.lab.scenes import (
    MAX_COUNT,
    Scene,
    Thing,
    compositions,
    draw_texture,
    held_out_among,
    nothing_held_out,
    place,
    related,
    relation,
)

Tag = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr", "multi"]
TAGS: tuple[Tag, ...] = get_args(Tag)
UNSEEN_SHARE = 1 / 2  # of the test prompts: those that ask for a held-out composition
COLOUR_SHARE = 0.6  # of the objects of "multi" whose colour is asked for
RELATION_SHARE = 0.8  # of the objects of "multi" whose place is asked for, where it is clear

Metadata = dict[str, Any]


def sample_prompt(rng: Random, split: str, tag: str) -> tuple[Scene, Metadata]:
    """Draws a scene of a split with what is asked of it, of one category.

    Half of what the test split asks for holds a composition that training never shows; the rest is made of what training
    does show, in scenes that it does not. A single object asks for no composition, and is always of the second kind.
    """
    unseen = split == "test" and tag != "single_object" and rng.random() < UNSEEN_SHARE
    while True:
        wanted = draw_objects(rng, tag)
        if not unseen and held_out_among(compositions(wanted)):
            continue
        things = place(rng, wanted, bool if unseen else nothing_held_out)
        if things is None:
            continue
        asked = ask(rng, things, tag)
        scene = Scene(things, draw_texture(rng))
        if asked is not None and scene.split == split and bool(unseen_in(asked)) == unseen:
            return scene, asked


def draw_objects(rng: Random, tag: str) -> list[tuple[str, str]]:
    """The objects of a scene of that category, (class, colour) each, before they have places."""
    if tag == "counting":
        number = rng.randint(2, MAX_COUNT)
        kind, colour, alike = rng.choice(list(GLYPHS)), rng.choice(list(COLOURS)), rng.random() < 1 / 2
        return [(kind, colour if alike else rng.choice(list(COLOURS))) for _ in range(number)]
    number = {"single_object": 1, "colors": 1, "multi": rng.randint(3, 5)}.get(tag, 2)
    kinds = rng.sample(list(GLYPHS), number)
    if tag == "color_attr":
        return list(zip(kinds, rng.sample(list(COLOURS), number), strict=True))
    return [(kind, rng.choice(list(COLOURS))) for kind in kinds]


def ask(rng: Random, things: Sequence[Thing], tag: str) -> Metadata | None:
    """A line of GenEval's prompt file that these objects fulfil, or None where they cannot (no clear relation)."""
    include: list[dict[str, Any]] = [{"class": t.kind, "count": 1} for t in things]
    exclude: list[dict[str, Any]] = []
    if tag == "counting":
        include, exclude = (
            [{"class": things[0].kind, "count": len(things)}],
            [{"class": things[0].kind, "count": len(things) + 1}],
        )
    elif tag in ("colors", "color_attr"):
        for entry, thing in zip(include, things, strict=True):
            entry["color"] = thing.colour
    elif tag == "position":
        name = relation(things[1], things[0])
        if not name:
            return None
        include[1]["position"] = [name, 0]
    elif tag == "multi":
        for i, (entry, thing) in enumerate(zip(include, things, strict=True)):
            if rng.random() < COLOUR_SHARE:
                entry["color"] = thing.colour
            clear = [[name, j] for j in range(i) if (name := relation(thing, things[j]))]
            if clear and rng.random() < RELATION_SHARE:
                entry["position"] = rng.choice(clear)
        if sum("position" in entry for entry in include) < 2:
            return None
    asked: Metadata = {"tag": tag, "include": include}
    if exclude:
        asked["exclude"] = exclude
    return {**asked, "prompt": official_prompt(asked)}


def unseen_in(asked: Mapping[str, Any]) -> tuple[str, ...]:
    """The held-out compositions that are asked for, in words."""
    include = asked["include"]
    found: list[tuple[str, ...]] = [("colour", e["class"], e["color"]) for e in include if "color" in e]
    found += [("count", e["class"], str(e["count"])) for e in include if e["count"] > 1]
    found += [("pair", *sorted((a["class"], b["class"]))) for a, b in combinations(include, 2)]
    for entry in include:
        if "position" in entry:
            name, other = entry["position"]
            found.append(related(entry["class"], name, include[other]["class"]))
    return held_out_among(found)


def ask_everything(scene: Scene) -> Metadata:
    """All that the scene shows: every object with its colour, and where it is beside an earlier one."""
    numbers = Counter((t.kind, t.colour) for t in scene.things)
    kinds = Counter(t.kind for t in scene.things)
    include: list[dict[str, Any]] = []
    told: list[Thing] = []  # in the order of `include`
    for thing in scene.things:
        if any((t.kind, t.colour) == (thing.kind, thing.colour) for t in told):
            continue
        entry: dict[str, Any] = {"class": thing.kind, "count": numbers[thing.kind, thing.colour], "color": thing.colour}
        alone = [j for j, t in enumerate(told) if kinds[t.kind] == kinds[thing.kind] == 1]
        clear = [[name, j] for j in alone if (name := relation(thing, told[j]))]
        if clear:
            entry["position"] = clear[-1]
        include.append(entry)
        told.append(thing)
    asked: Metadata = {"tag": "multi", "include": include}
    return {**asked, "prompt": official_prompt(asked)}


def prompts(seed: int, split: str, each: int) -> list[tuple[Scene, Metadata]]:
    """`each` different prompts of every category with a scene that fulfils it: GenEval's file for this world.

    Pure in its arguments. A category of few prompts (there are 24 single objects) may give fewer.
    """
    found: list[tuple[Scene, Metadata]] = []
    for tag in TAGS:
        rng = Random(f"scene_prompts/{seed}/{split}/{tag}")
        told: dict[str, tuple[Scene, Metadata]] = {}
        for _ in range(20 * each):
            scene, asked = sample_prompt(rng, split, tag)
            told.setdefault(asked["prompt"], (scene, asked))
            if len(told) == each:
                break
        found += told.values()
    return found
