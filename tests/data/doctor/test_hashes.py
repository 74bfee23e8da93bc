"""Copies among many pictures: all of them found, without comparing each with each."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from editkit.data.doctor.hashes import LOOSE, candidates, hashes_of, same_picture, thumbnail
from editkit.lab.avatar_edits import sample_avatars
from tests.bench.faults import copy_of


def met(hashes: np.ndarray, window: int = 64) -> set[tuple[int, int]]:
    return {(min(i, j), max(i, j)) for a, b in candidates(hashes, window) for i, j in zip(a.tolist(), b.tolist(), strict=True)}


@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=3), st.integers(0, 1000))
@settings(max_examples=60)
def test_hashes_that_differ_in_three_bits_always_meet(value: int, flipped: set[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 300, np.uint64)
    hashes[17] = value
    hashes[250] = value ^ sum(1 << bit for bit in flipped)
    assert (17, 250) in met(hashes)


def test_random_hashes_hardly_meet_and_equal_ones_do_not_meet_all_with_all() -> None:
    assert len(met(np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64))) < 20
    assert len(met(np.zeros(500, np.uint64), window=8)) <= 8 * 500


def test_copies_are_the_same_picture_and_other_avatars_are_not() -> None:
    rng = Random(0)
    pictures = [example.image for example in sample_avatars(60, seed=5, split="train")]
    thumbs = np.stack([thumbnail(p.open()) for p in pictures])
    copies = np.stack([thumbnail(copy_of(p, rng).open()) for p in pictures])
    assert same_picture(thumbs, copies, LOOSE).mean() > 0.97
    assert np.bitwise_count(hashes_of(thumbs) ^ hashes_of(copies)).mean() < 1
    first, second = np.triu_indices(len(thumbs), 1)
    differ = (thumbs[first] != thumbs[second]).any(1)
    assert not same_picture(thumbs[first][differ], thumbs[second][differ]).any()


def test_pictures_of_one_colour_are_told_apart_by_it() -> None:
    colours = ["white", "#fafafa", "black", "red", "#fe0000", "blue"]
    thumbs = np.stack([thumbnail(Image.new("RGB", (40, 30), c)) for c in colours])
    same = {(i, j) for i in range(6) for j in range(i) if same_picture(thumbs[i : i + 1], thumbs[j : j + 1])[0]}
    assert same == {(4, 3)}
