"""What is no instruction, and that real ones are never taken for it."""

from __future__ import annotations

import pytest

from editkit.data.doctor.texts import faulty_texts, normalised, text_findings
from editkit.lab.avatar_edits import sample_edits
from tests.bench.faults import NO_INSTRUCTIONS

GOOD = (
    "make it snow", "Have her wear a hat", "as a watercolour painting", "turn the photo into a portrait of a knight", "wink",
    "glasses, please", "what if it were night?", "make the sky more dramatic, cinematic lighting", "8k", "no hat",
    "remove text",     "add the text 'none'", "put 3 cats on the sofa", "a mint background",
)  # fmt: skip


def kinds(
    *texts: str, captions: tuple[str, ...] = (), key: str = "pair-1", names: tuple[str, ...] = ()
) -> list[tuple[str, str]]:
    return [(f.kind, f.severity) for f in text_findings(key, texts, captions, 0, names)]


@pytest.mark.parametrize("text", GOOD)
def test_instructions_are_let_be(text: str) -> None:
    assert kinds(text) == []


def test_no_phrasing_of_the_lab_is_suspected() -> None:
    for pair in sample_edits(40, seed=9, split="train"):
        assert list(text_findings(pair.key, pair.instructions, (pair.source_caption, pair.target_caption), 0)) == []


@pytest.mark.parametrize("text", NO_INSTRUCTIONS)
def test_what_nobody_asks_an_editor_for(text: str) -> None:
    assert kinds(text) == [("not an instruction", "error")]


def test_copies_of_captions_and_descriptions() -> None:
    captions = ("a portrait with short red hair and a beard", "a portrait with long red hair and a beard")
    assert kinds("A portrait with short red hair, and a beard.", captions=captions) == [("copied text", "error")]
    assert kinds("give them long red hair and keep the beard", captions=captions) == []
    assert kinds("a photo of a cat on a sofa") == [("copied text", "error")]


def test_names_of_the_pair_itself_are_no_instructions() -> None:
    assert kinds("pair-1") == [("not an instruction", "error")]
    assert kinds("cat (after)", names=("cat (after)",)) == [("not an instruction", "error")]


def test_one_faulty_phrasing_among_good_ones_is_a_warning_and_can_be_left_out() -> None:
    texts = ("make it red", "IMG_0001.png", "")
    assert kinds(*texts) == [("empty text", "warning"), ("not an instruction", "warning")]
    assert faulty_texts(texts, (), "pair-1") == {"IMG_0001.png", ""}
    assert kinds("", " ") == [("empty text", "error")]


def test_texts_that_say_the_same_are_equal_when_normalised() -> None:
    assert normalised("Make  the HAIR red!") == normalised("make the hair red.")
