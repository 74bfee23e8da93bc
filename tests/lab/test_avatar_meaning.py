"""What an instruction means is decided as the world itself draws and words its edits."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.lab.avatar_edits import CATEGORIES, phrase, sample_pair
from editkit.lab.avatar_meaning import asks_for, edits_between
from editkit.lab.avatar_words import HELD_OUT, IN_TRAINING, in_good_grammar
from editkit.lab.avatars import Avatar, normalise


def avatar(**values: str) -> Avatar:
    bald = {
        "hair": "bald", "hair colour": "black", "eyes": "open", "mouth": "smile", "facial hair": "none", "clothes": "plain",
        "clothes colour": "red", "skin": "tan", "background": "white",
    }  # fmt: skip
    return normalise("micah", bald | {name.replace("_", " "): value for name, value in values.items()})


def asks(text: str, source: Avatar, target: Avatar) -> bool:
    return asks_for(text, source.facts, target.facts)


@settings(max_examples=60)
@given(st.integers(0, 10**9), st.sampled_from(sorted(CATEGORIES)), st.sampled_from([IN_TRAINING, HELD_OUT]))
def test_every_phrasing_of_an_edit_asks_for_it(seed: int, category: str, phrasings: dict) -> None:
    rng = Random(seed)
    source, target, _, edits = sample_pair(rng, "train", category)
    text = in_good_grammar(phrase(rng, source, edits, phrasings))
    assert edits in list(edits_between(source, target))
    assert asks(text, source, target)
    assert not asks(text + " too", source, target)


@settings(max_examples=60)
@given(st.integers(0, 10**9))
def test_what_led_to_another_picture_does_not_ask_for_this_one(seed: int) -> None:
    rng = Random(seed)
    source, target, _, edits = sample_pair(rng, "train")
    other = target.with_values({"background": rng.choice(["white", "mint", "navy"])})
    text = in_good_grammar(phrase(rng, source, edits, IN_TRAINING))
    assert asks(text, source, other) == (other == target)


@pytest.mark.parametrize(
    ("text", "changes", "right"),
    [
        ("make the background navy", {"background": "navy"}, True),
        ("set the backdrop to navy", {"background": "navy"}, True),
        ("make the background navy", {"background": "teal"}, False),
        ("make the background navy", {"background": "navy", "eyes": "closed"}, False),
        ("make the background navy and close the eyes", {"background": "navy", "eyes": "closed"}, True),
        ("close the eyes, then make the background navy", {"background": "navy", "eyes": "closed"}, True),
        ("close the eyes and close the eyes", {"background": "navy", "eyes": "closed"}, False),
        ("change nothing", {}, True),
        ("change nothing", {"background": "navy"}, False),
        # hair that was not there has a colour, which is asked for, and a phrasing that joins may itself hold an "and"
        ("give them a green bob", {"hair": "bob", "hair_colour": "green"}, True),
        ("give them a bob", {"hair": "bob", "hair_colour": "green"}, False),
        ("get rid of the bald head and give them a green bob and close the eyes",
         {"hair": "bob", "hair_colour": "green", "eyes": "closed"}, True),
        ("make everything better", {"background": "navy"}, False),
    ],
)  # fmt: skip
def test_meaning_is_what_a_person_would_say(text: str, changes: dict[str, str], right: bool) -> None:
    assert asks(text, avatar(), avatar(**changes)) == right


def test_no_words_lead_from_one_style_to_another() -> None:
    rng = Random(1)
    source, target, _, _ = sample_pair(rng, "train", "keep")
    assert asks("change nothing", source, target)
    other = next(a for a in iter(lambda: sample_pair(rng, "train", "keep")[0], None) if a.style != source.style)
    assert not asks("change nothing", source, other)
