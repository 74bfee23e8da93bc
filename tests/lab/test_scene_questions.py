"""Questions about scenes: every answer against the graph by other means, and nothing held out is spoken of in training."""

from __future__ import annotations

import json
from collections import Counter
from random import Random

import pytest

from editkit.evaluate.benches.geneval_rules import Detection, judge
from editkit.lab.scene_art import COLOURS, GLYPHS
from editkit.lab.scene_edits import sample_scenes
from editkit.lab.scene_prompts import unseen_in
from editkit.lab.scene_questions import COLOUR, FITS, HOW_MANY, IS_THERE, WHERE, ask_about, ask_whether_it_fits, contradiction
from editkit.lab.scene_texts import world_texts
from editkit.lab.scene_words import NUMBERS, noun, plural
from editkit.lab.scenes import OPPOSITE, is_held_out

SCENES = [(json.loads(e.facts["graph"]), json.loads(e.facts["geneval"])) for e in sample_scenes(60, seed=3, split="train")]
PLURALS = {plural(kind): kind for kind in GLYPHS}
NOUNS = {noun(kind, 1, colour): (kind, colour) for kind in GLYPHS for colour in COLOURS}


def answer(question: str, graph: dict) -> str:
    """The right answer, read from the question's words alone."""
    objects = graph["objects"]
    numbers = Counter(o["class"] for o in objects)
    for template in HOW_MANY[0]:
        head, tail = template.split("{things}")
        if question.startswith(head) and question.endswith(tail) and question[len(head) : -len(tail)] in PLURALS:
            count = numbers[PLURALS[question[len(head) : -len(tail)]]]
            return NUMBERS[count] if count else "none"
    for template in COLOUR[0]:
        for kind in numbers:
            if question == template.format(thing=kind):
                (colour,) = [o["color"] for o in objects if o["class"] == kind]
                return colour
    for template in IS_THERE[0]:
        for words, (kind, colour) in NOUNS.items():
            if question == template.format(thing=words):
                return "yes" if any((o["class"], o["color"]) == (kind, colour) for o in objects) else "no"
    for i, name, j in graph["relations"]:
        for a, said, b in ((i, name, j), (j, OPPOSITE[name], i)):
            words = {"thing": objects[a]["class"], "other": objects[b]["class"]}
            if question in [template.format(**words) for template in WHERE[0]]:
                return said
    raise AssertionError(f"{question} is no question of these")


def test_every_answer_is_right_and_every_kind_is_asked() -> None:
    rng, kinds = Random(1), Counter()
    for graph, _ in SCENES * 4:
        question, said = ask_about(rng, graph, False)
        assert answer(question, graph) == said, (question, graph)
        kinds[said] += 1
    assert {"yes", "no", "none", "one", "two", "left of", "above", "red"} <= set(kinds)
    assert kinds["yes"] == pytest.approx(kinds["no"], abs=20)


def test_a_contradicted_prompt_is_one_that_the_picture_does_not_fulfil() -> None:
    rng = Random(2)
    for graph, asked in SCENES * 3:
        other = contradiction(rng, asked, graph, False)
        if other is None:
            continue
        assert sum(a != b for a, b in zip(asked["include"], other["include"], strict=True)) == 1
        assert not unseen_in(other)
        if asked["tag"] != "counting":  # GenEval counts "at least" elsewhere, and may see fewer than asked for
            assert not _right(other, graph), (asked, other)
        assert _right(asked, graph)


def _right(asked: dict, graph: dict) -> bool:
    found = [Detection(o["class"], tuple(o["box"]), 1.0) for o in graph["objects"]]
    colours = {id(d): o["color"] for d, o in zip(found, graph["objects"], strict=True)}
    return judge(asked, found, lambda chosen: [colours[id(d)] for d in chosen]).correct


def test_half_of_the_prompts_fit() -> None:
    rng = Random(3)
    told = [ask_whether_it_fits(rng, asked, graph, False) for graph, asked in SCENES * 5]
    assert sum(said == "yes" for _, said in told) == pytest.approx(150, abs=30)
    assert all(any(question.startswith(t.split("{")[0]) for t in FITS[0]) for question, _ in told)


def test_training_hears_of_no_held_out_colour() -> None:
    rng, asked = Random(4), []
    for graph, _ in SCENES * 6:
        asked += [question for question, _ in [ask_about(rng, graph, False)]]
    held_out = [words for words, thing in NOUNS.items() if is_held_out("colour", *thing)]
    assert held_out
    assert not [q for q in asked for words in held_out if f"{words}?" in q]


def test_texts_for_a_tokenizer_are_of_every_kind_and_the_same_every_time() -> None:
    told = list(world_texts(3))
    assert told == list(world_texts(3))
    assert {"<ins>", "Please", "The "} <= {w for w in ("<ins>", "Please", "The ") if any(t.startswith(w) for t in told)}
