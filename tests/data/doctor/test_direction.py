"""Exchanged pairs: told by the words alone, and not decided where the words say nothing."""

from __future__ import annotations

import numpy as np
import pytest

from editkit.data.doctor.direction import FEWEST, LEAST_CLEAR, TOKENS, agreements, changes, decided_from, tokens_of
from editkit.data.doctor.hashes import THUMBNAIL

COUNT = 700


@pytest.fixture(scope="module")
def world() -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose left or right half becomes brighter or darker, as asked; of a quarter the words say nothing."""
    rng = np.random.default_rng(0)
    tokens, thumbs = [], []
    for i in range(COUNT):
        side, way = rng.choice(["left", "right"]), rng.choice(["brighter", "darker"])
        source = rng.integers(80, 170, THUMBNAIL).astype(np.int16)
        target = source + rng.integers(-3, 4, THUMBNAIL)
        half = np.tile(np.repeat([side == "left", side == "right"], 8), 16)
        target[:256] += np.where(half, 40 if way == "brighter" else -40, 0)
        tokens.append(tokens_of([f"make the {side} {way}" if i % 4 else "edit it"], "", ""))
        thumbs.append(np.stack([source, target]).clip(0, 255).astype(np.uint8))
    return np.stack(tokens), np.stack(thumbs)


def test_exchanged_pairs_disagree_and_what_words_do_not_tell_stays_undecided(world: tuple[np.ndarray, np.ndarray]) -> None:
    tokens, thumbs = world
    thumbs = thumbs.copy()
    exchanged = np.arange(COUNT) % 41 == 1
    thumbs[exchanged] = thumbs[exchanged][:, ::-1]
    agreement = agreements(tokens, thumbs, np.ones(COUNT, bool))
    clear = decided_from(agreement)
    says = np.arange(COUNT) % 4 != 0
    assert (agreement[exchanged & says] < -clear).all()
    assert (agreement[~exchanged & says] > clear).all()
    assert np.abs(agreement[~says]).mean() < 0.3 * np.abs(agreement[says]).mean()


def test_exchanging_changes_the_sign_of_every_feature(world: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.allclose(changes(world[1][:9]), -changes(world[1][:9, ::-1]))


def test_few_pairs_teach_nothing(world: tuple[np.ndarray, np.ndarray]) -> None:
    usable = np.arange(COUNT) < FEWEST - 1
    assert np.isnan(agreements(*world, usable)).all()


def test_what_captions_gain_and_lose_has_opposite_signs() -> None:
    there, back = tokens_of([], "a red hat", "a blue hat"), tokens_of([], "a blue hat", "a red hat")
    assert len(there) == TOKENS
    assert sorted(there) == sorted(-back)
    assert not tokens_of([], "the same", "the same").any()


def test_it_decides_less_where_it_errs_more() -> None:
    rng = np.random.default_rng(0)
    true = np.where(rng.random(5000) < 0.03, -1, 1)  # three in a hundred are exchanged
    sure = (true * rng.normal(0.5, 0.1, 5000)).astype(np.float32)
    assert decided_from(sure) == LEAST_CLEAR
    unsure = (true * rng.normal(0.1, 0.1, 5000)).astype(np.float32)
    clear = decided_from(unsure)
    assert 0.03 < clear < 0.3
    assert ((unsure < -clear) & (true > 0)).mean() < 0.025  # of 0.16 by the sign alone
    assert decided_from(np.full(3, np.nan, np.float32)) == 1.0
