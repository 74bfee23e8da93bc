"""How descriptions and agreements are scored, on cases whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editkit.errors import UserError
from editkit.evaluate.descriptions import (
    DOUBTFUL,
    check_world,
    exchanged,
    is_right,
    score_agreement,
    score_by_category,
    score_descriptions,
)
from editkit.lab.avatar_edits import sample_edits

PAIRS = sample_edits(24, seed=5, split="train", size=16)
shares = st.lists(st.floats(0, 1), min_size=1, max_size=20)


def test_what_means_the_edit_in_other_words_is_right_and_not_exact() -> None:
    keep = replace(PAIRS[0], target_facts=PAIRS[0].source_facts, instructions=("change nothing",))
    assert score_descriptions([keep], ["do nothing"], "avatars") == {
        "means_the_same": 1.0, "exact": 0.0, "most_frequent": 1.0, "n": 1,
    }  # fmt: skip
    assert score_descriptions([keep], ["Change nothing"], "") == {"exact": 1.0, "most_frequent": 1.0, "n": 1}


def test_own_words_are_right_in_every_kind_and_one_for_all_is_not() -> None:
    said = [pair.instructions[-1] for pair in PAIRS]
    scores = score_descriptions(PAIRS, said, "avatars")
    assert scores["means_the_same"] == scores["exact"] == 1.0
    assert scores["most_frequent"] < 0.5
    kinds = score_by_category(PAIRS, said, "avatars")
    assert kinds.keys() == {pair.category for pair in PAIRS}
    assert set(kinds.values()) == {1.0}


def test_exchanged_instructions_are_wrong_ones_from_far_away() -> None:
    others = exchanged(PAIRS, "avatars")
    assert sum(bool(text) for text in others) > len(PAIRS) // 2
    assert all(text in ("", pair.instructions[0]) for text, pair in zip(others, PAIRS[12:] + PAIRS[:12], strict=True))
    assert not any(is_right(pair, text, "avatars") for pair, text in zip(PAIRS, others, strict=True) if text)
    assert exchanged([PAIRS[0], PAIRS[0]], "avatars") == ["", ""]


@given(shares, shares)
def test_auc_is_the_chance_that_right_is_above_wrong(right: list[float], wrong: list[float]) -> None:
    scores = score_agreement(right, wrong)
    wins = [1.0 if r > w else 0.5 if r == w else 0.0 for r in right for w in wrong]
    assert scores["agreement_auc"] == pytest.approx(sum(wins) / len(wins))
    assert score_agreement(wrong, right)["agreement_auc"] == pytest.approx(1 - scores["agreement_auc"])
    assert scores["caught"] == pytest.approx(sum(w < DOUBTFUL for w in wrong) / len(wrong))
    assert scores["false_alarms"] == pytest.approx(sum(r < DOUBTFUL for r in right) / len(right))


def test_nothing_is_said_of_agreement_where_one_kind_is_missing() -> None:
    assert score_agreement([], [0.5]) == score_agreement([0.5], []) == {}


def test_an_unknown_world_is_named() -> None:
    check_world("")
    with pytest.raises(UserError, match='found "moon"; expected "avatars"'):
        check_world("moon")
