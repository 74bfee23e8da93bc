"""Questions about a scene whose answers its graph knows, and prompts that it does not fulfil.

Made when they are asked, from the graph that every example carries. Training hears of no held-out composition here either: it
would learn that the answer is "no".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from editkit.lab.scene_art import COLOURS, GLYPHS
from editkit.lab.scene_prompts import Metadata, unseen_in
from editkit.lab.scene_words import NUMBERS, caption, noun, plural
from editkit.lab.scenes import MAX_COUNT, OPPOSITE, is_held_out

YES, NO, NONE = "yes", "no", "none"

Graph = Mapping[str, Any]  # as `Scene.graph` gives it
Asked = tuple[str, str]  # a question and its answer

# (for training, held out for evaluation)
HOW_MANY = (
    ("how many {things} are there?", "how many {things} do you see?", "what is the number of {things}?"),
    ("how many {things} does it have?",),
)  # fmt: skip
COLOUR = (
    ("what colour is the {thing}?", "which colour has the {thing}?", "the {thing} is of which colour?"),
    ("what is the colour of the {thing}?",),
)  # fmt: skip
IS_THERE = (
    ("is there {thing}?", "do you see {thing}?", "does the picture show {thing}?"),
    ("is {thing} to be seen?",),
)  # fmt: skip
WHERE = (
    ("where is the {thing}, seen from the {other}?", "where is the {thing} beside the {other}?"),
    ("where does the {thing} stand, seen from the {other}?",),
)  # fmt: skip
FITS = (
    ("does it fit? {prompt}", "is this what was asked for? {prompt}", "is the picture right? {prompt}"),
    ("is it as wanted? {prompt}",),
)  # fmt: skip


def ask_about(rng: Random, graph: Graph, held_out: bool) -> Asked:
    """A question that the picture answers: how many, which colour, whether there is one, or where.

    Args:
        rng: where the draws come from.
        graph: of the picture, with at least one object.
        held_out: in words that training never uses, and on any composition.
    """
    kinds: list[Callable[[Random, Graph, bool], Asked | None]] = [_how_many, _colour, _is_there, _where]
    rng.shuffle(kinds)
    for ask in kinds:
        if asked := ask(rng, graph, held_out):
            return asked
    raise ValueError("found an empty scene; there is nothing to ask")


def ask_whether_it_fits(rng: Random, asked: Metadata, graph: Graph, held_out: bool) -> Asked:
    """Whether a picture fits a prompt: its own, or in half of the cases one that differs in one thing.

    Args:
        rng: where the draws come from.
        asked: what the picture was drawn for.
        graph: of the picture.
        held_out: see `ask_about`.
    """
    other = contradiction(rng, asked, graph, held_out) if rng.random() < 1 / 2 else None
    prompt = caption(rng, other or asked, held_out)
    return rng.choice(FITS[held_out]).format(prompt=prompt), NO if other else YES


def contradiction(rng: Random, asked: Metadata, graph: Graph, held_out: bool) -> Metadata | None:
    """The prompt with one demand exchanged for one that the picture does not meet; None where none was found.

    Args:
        rng: where the draws come from.
        asked: a line of GenEval's prompt file that the picture fulfils.
        graph: of the picture.
        held_out: whether it may ask for a held-out composition.
    """
    shown = {(o["class"], o["color"]) for o in graph["objects"]}
    include: Sequence[Mapping[str, Any]] = asked["include"]
    changes: list[tuple[int, dict[str, Any]]] = []
    for i, entry in enumerate(include):
        present = {kind for kind, _ in shown} | {e["class"] for e in include}
        changes.append((i, {"class": rng.choice([k for k in GLYPHS if k not in present])}))
        if "color" in entry:
            others = [c for c in COLOURS if (entry["class"], c) not in shown]
            changes.append((i, {"color": rng.choice(others)}))
        if entry["count"] > 1:
            changes.append((i, {"count": rng.choice([n for n in range(2, MAX_COUNT + 1) if n != entry["count"]])}))
        if "position" in entry:
            name, beside = entry["position"]
            changes.append((i, {"position": [OPPOSITE[name], beside]}))
    rng.shuffle(changes)
    for i, change in changes:
        changed = {**asked, "include": [{**e, **change} if n == i else dict(e) for n, e in enumerate(include)]}
        if held_out or not unseen_in(changed):
            return changed
    return None


def _how_many(rng: Random, graph: Graph, held_out: bool) -> Asked:
    numbers = Counter(o["class"] for o in graph["objects"])
    absent = [k for k in GLYPHS if k not in numbers]
    kind = rng.choice(absent) if rng.random() < 1 / 5 else rng.choice(list(numbers))
    answer = NUMBERS[numbers[kind]] if numbers[kind] else NONE
    return rng.choice(HOW_MANY[held_out]).format(things=plural(kind)), answer


def _colour(rng: Random, graph: Graph, held_out: bool) -> Asked | None:
    numbers = Counter(o["class"] for o in graph["objects"])
    alone = [o for o in graph["objects"] if numbers[o["class"]] == 1]
    if not alone:
        return None
    one = rng.choice(alone)
    return rng.choice(COLOUR[held_out]).format(thing=one["class"]), one["color"]


def _is_there(rng: Random, graph: Graph, held_out: bool) -> Asked | None:
    shown = {(o["class"], o["color"]) for o in graph["objects"]}
    kind, colour = rng.choice(sorted(shown))
    if rng.random() < 1 / 2:
        return rng.choice(IS_THERE[held_out]).format(thing=noun(kind, 1, colour)), YES
    near = [(kind, c) for c in COLOURS] + [(k, colour) for k in GLYPHS]
    wrong = [t for t in near if t not in shown and (held_out or not is_held_out("colour", *t))]
    if not wrong:
        return None
    kind, colour = rng.choice(wrong)
    return rng.choice(IS_THERE[held_out]).format(thing=noun(kind, 1, colour)), NO


def _where(rng: Random, graph: Graph, held_out: bool) -> Asked | None:
    objects = graph["objects"]
    numbers = Counter(o["class"] for o in objects)
    clear = [r for r in graph["relations"] if all(numbers[objects[i]["class"]] == 1 for i in (r[0], r[2]))]
    if not clear:
        return None
    i, name, j = rng.choice(clear)
    if rng.random() < 1 / 2:
        i, name, j = j, OPPOSITE[name], i
    words = {"thing": objects[i]["class"], "other": objects[j]["class"]}
    return rng.choice(WHERE[held_out]).format(**words), name
