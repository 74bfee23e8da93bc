"""The avatars world: what is drawn is what is said."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageChops

from editkit.lab.avatar_edits import CATEGORIES, captioned_image, edit_pair, phrase, sample_edits, sample_pair
from editkit.lab.avatar_words import HELD_OUT, IN_CAPTIONS, IN_TRAINING, PHRASINGS, caption, in_good_grammar
from editkit.lab.avatars import STYLES, Avatar, is_hidden, render, sample_avatar
from editkit.lab.judges import attribute_words

seeds = st.integers(0, 2**31)


def test_the_world_is_as_large_as_promised() -> None:
    editable = {a.name for s in STYLES.values() for a in s.attributes if a.editable}
    assert len(STYLES) >= 3
    assert len(editable) >= 10
    assert {s.licence for s in STYLES.values()} <= {"CC0 1.0", "CC BY 4.0"}


def test_every_kind_of_edit_has_eight_phrasings_and_held_out_ones() -> None:
    assert set(PHRASINGS) == set(CATEGORIES)
    for kind in CATEGORIES:
        train, test = IN_TRAINING[kind], HELD_OUT[kind]
        assert set(IN_CAPTIONS[kind]) < set(train)
        assert len(set(train)) == len(train) >= 20
        assert len(set(test)) >= 3
    every = {template for templates in HELD_OUT.values() for template in templates}
    assert not every & {template for templates in IN_TRAINING.values() for template in templates}


def test_no_training_pair_is_worded_as_a_test_pair_is() -> None:
    said = {
        split: {t for p in sample_edits(300, seed=8, split=split, size=8) for t in p.instructions}
        for split in ("train", "test")
    }
    assert len(said["train"]) > 1000
    assert not said["train"] & said["test"]


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("could them wink", "could they wink"), ("them should have a afro", "they should have an afro"),
        ("give them a orange shirt", "give them an orange shirt"), ("can the person wink", "can the person wink"),
    ],
)  # fmt: skip
def test_grammar_of_filled_in_templates(text: str, better: str) -> None:
    assert in_good_grammar(text) == better


@settings(max_examples=60)
@given(seeds)
def test_an_edit_changes_what_it_says_and_nothing_else_that_was_there(seed: int) -> None:
    rng = Random(seed)
    for split in ("train", "test"):
        source, target, category, edits = sample_pair(rng, split)
        assert source.split == target.split == split
        asked = {n for e in edits for n in e.changes}
        shared = source.facts.keys() & target.facts.keys()
        assert {n for n in shared if source.facts[n] != target.facts[n]} <= asked
        assert (category == "keep") == (source == target)
        text = phrase(rng, source, edits, HELD_OUT if split == "test" else IN_TRAINING)
        assert text
        assert "{" not in text
        assert "  " not in text


@settings(max_examples=25)
@given(seeds)
def test_the_mask_is_exactly_where_the_pictures_differ(seed: int) -> None:
    pair = edit_pair(seed, "train", 0, 48)
    source, target = np.asarray(pair.source.open()), np.asarray(pair.target.open())
    mask = np.asarray(pair.mask.open().convert("L")) > 0
    assert np.array_equal(mask, (source != target).any(axis=2))
    assert mask.any() == (pair.category != "keep")


@pytest.mark.parametrize("style", sorted(STYLES))
def test_every_value_of_every_attribute_can_be_seen(style: str) -> None:
    """Changing one visible attribute changes the picture: no two words name the same drawing."""
    rng = Random(5)
    for attribute in STYLES[style].attributes:
        while True:
            base = sample_avatar(rng, style)
            if not is_hidden(attribute, base.values):
                break
        drawn = {w: render(base.with_values({attribute.name: w}), 64) for w in attribute.values}
        words = list(drawn)
        for i, word in enumerate(words):
            for other in words[i + 1 :]:
                assert ImageChops.difference(drawn[word], drawn[other]).getbbox(), f"{attribute.name}: {word} = {other}"


def test_hidden_attributes_are_no_facts_and_do_not_show() -> None:
    values = {a.name: a.default for a in STYLES["personas"].attributes} | {"eyewear": "sunglasses"}
    open_eyes, closed = (Avatar("personas", values | {"eyes": e}) for e in ("open", "closed"))
    assert "eyes" not in closed.facts
    assert render(open_eyes, 64).tobytes() == render(closed, 64).tobytes()


def test_equal_seeds_give_equal_bytes_and_other_seeds_others() -> None:
    first, again, other = (edit_pair(s, "train", 3, 64) for s in (1, 1, 2))
    assert first.source.read_bytes() == again.source.read_bytes()
    assert first.instructions == again.instructions
    assert first.source.read_bytes() != other.source.read_bytes()


@pytest.mark.parametrize("split", ["train", "test"])
def test_kinds_of_edit_are_as_frequent_as_stated_in_both_splits(split: str) -> None:
    found = Counter(pair.category for pair in sample_edits(420, seed=5, split=split, size=8))
    for kind, weight in CATEGORIES.items():
        expected = 420 * weight / sum(CATEGORIES.values())
        assert abs(found[kind] - expected) < 4 * expected**0.5, kind


def test_train_and_test_share_no_avatar() -> None:
    train = {tuple(sorted(captioned_image(0, "train", i, 16).facts.items())) for i in range(300)}
    test = {tuple(sorted(captioned_image(0, "test", i, 16).facts.items())) for i in range(300)}
    assert not train & test


def test_no_held_out_phrasing_is_in_the_captions() -> None:
    openings = ("i want", "let the hair", "let everything", "could ", "show ", "drop the", "set the", "exchange the")
    texts = [c for i in range(200) for c in captioned_image(0, "train", i, 16).captions]
    assert not [t for t in texts if t.startswith(openings)]
    tests = [c for i in range(100) for c in edit_pair(0, "test", i, 16).instructions]
    assert [t for t in tests if t.startswith(openings)], "the openings are those of held-out phrasings"


def test_captions_name_every_visible_attribute() -> None:
    avatar = sample_avatar(Random(2), "critters").with_values(
        {"topper": "horns", "topper colour": "blue", "body colour": "red"}
    )
    text = caption(avatar)
    for word in ("blue horns", "a red body", avatar.values["shape"], avatar.values["background"]):
        assert word in text


def test_the_judge_knows_every_word() -> None:
    words = attribute_words("avatars")
    for style in STYLES.values():
        for attribute in style.attributes:
            assert set(attribute.values) <= set(words[attribute.name])
