"""Exchanged sources and targets, where the texts can tell.

A mask cannot: it is the same in both directions. What can is that a data set is mostly right. A linear model is fitted to it
that says from the words of a pair (of its instruction, and what its captions gain and lose) how the pictures change, cell by
cell; a pair whose pictures change the opposite way is probably exchanged. Each pair is judged by a model that did not see it,
and pairs of whose words the model expects nothing in particular stay undecided, which is said.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import xxhash

from editkit.data.doctor.hashes import GRID, THUMBNAIL, split_thumbnail

Floats = npt.NDArray[np.float32]

WORDS = 1536  # slots to which words and pairs of words are hashed
TOKENS = 64  # kept of a pair; negative where the words were lost
PHRASINGS = 2  # of the instruction, that are read
FEWEST = 300  # pairs, below which nothing is learned
MOST = 20_000  # pairs that are learned from; more would not teach more
FOLDS = 2
FEATURES = THUMBNAIL + 2 * GRID**2
RIDGE = 3.0
LEAST_CLEAR = 0.01  # agreement between expected and found change, below which no pair is decided
WRONG = 0.005  # share of the pairs that may be called exchanged wrongly, by the estimate of `decided_from`


def tokens_of(texts: Sequence[str], source_caption: str, target_caption: str) -> npt.NDArray[np.int16]:
    """Slots + 1 of the words and neighbouring words: of the instruction and what the captions gain +, what they lose -."""
    gained, lost = _grams(target_caption), _grams(source_caption)
    signed = [slot + 1 for slot in sorted(gained - lost)] + [-slot - 1 for slot in sorted(lost - gained)]
    asked = sorted({slot + 1 for text in texts[:PHRASINGS] for slot in _grams(text, "asked")})
    found = np.zeros(TOKENS, np.int16)
    together = (signed[: TOKENS // 2] + asked)[:TOKENS]
    found[: len(together)] = together
    return found


def _grams(text: str, where: str = "said") -> set[int]:
    words = re.findall(r"\w+", text.casefold())
    grams = [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
    return {_slot(where, gram) for gram in grams}


@lru_cache(2**16)
def _slot(where: str, gram: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{where}/{gram}".encode()) % WORDS


def changes(thumbs_N2B: npt.NDArray[np.uint8]) -> Floats:
    """From source to target, cell by cell, (N, FEATURES): what grows brighter or more coloured, what stands out, edges.

    The first says nothing of an object whose colour may be any, the others do. All are exchanged in sign when source and target
    are, and each is of length 1, so that a large edit says no more than a small one.
    """
    luma, colours = split_thumbnail(thumbs_N2B)
    plain = thumbs_N2B.astype(np.float32)
    border = np.concatenate([luma[..., 0, :], luma[..., -1, :], luma[..., 0], luma[..., -1]], axis=-1)
    rim = np.concatenate([colours[..., 0, :], colours[..., -1, :], colours[..., 0], colours[..., -1]], axis=-1)
    wide = (colours - np.median(rim, axis=-1)[..., None, None]).repeat(2, -2).repeat(2, -1)
    outstanding = np.abs(luma - np.median(border, axis=-1)[..., None, None]) + np.abs(wide).sum(2)
    down, across = np.diff(luma, axis=-2, append=luma[..., -1:, :]), np.diff(luma, axis=-1, append=luma[..., -1:])
    slopes = np.abs(down) + np.abs(across)
    parts = [plain, np.minimum(outstanding, 60.0).reshape(*plain.shape[:2], -1), slopes.reshape(*plain.shape[:2], -1)]
    return np.concatenate([_direction(part[:, 1] - part[:, 0]) for part in parts], axis=1) / np.sqrt(len(parts))


def _direction(change_NF: Floats) -> Floats:
    change_NF = np.sign(change_NF) * np.sqrt(np.abs(change_NF))
    return change_NF / np.maximum(np.linalg.norm(change_NF, axis=1, keepdims=True), 1e-6)


def agreements(
    tokens_NT: npt.NDArray[np.int16],
    thumbs_N2B: npt.NDArray[np.uint8],
    usable_N: npt.NDArray[np.bool_],
    advance: Callable[[int], None] = lambda n: None,
) -> Floats:
    """How far every pair's change is what its words let expect, -1 to 1; nan where nothing was learned.

    It is small where the words let expect little, however well that fits.

    Args:
        tokens_NT: of `tokens_of`, as an array or a file that is mapped.
        thumbs_N2B: thumbnails of source and target.
        usable_N: pairs that say something: they can be read and are meant to change.
        advance: told how many pairs were judged.
    """
    found = np.full(len(tokens_NT), np.nan, np.float32)
    chosen = np.flatnonzero(usable_N)
    if len(chosen) < FEWEST:
        return found
    taught = chosen[:: max(1, len(chosen) // MOST)]
    fold = _folds(len(tokens_NT))
    models = [_fit(_batches(taught[fold[taught] != f], tokens_NT, thumbs_N2B)) for f in range(FOLDS)]
    for start in range(0, len(chosen), 4096):
        part = chosen[start : start + 4096]
        expected = np.empty((len(part), FEATURES), np.float32)
        words = _one_hot(tokens_NT[part])
        for f, model in enumerate(models):
            mine = fold[part] == f
            expected[mine] = words[mine] @ model
        found[part] = (expected * changes(thumbs_N2B[part])).sum(1)
        advance(len(part))
    return found


def decided_from(agreement_N: Floats) -> float:
    """The agreement from which a pair is decided, so that few are called exchanged that are not.

    Among the pairs that the model is surest of, those against it are the truly exchanged ones: that is their share. Where it is
    less sure, more than that share is against it through its own mistakes, which are counted from the surest pair on downwards.
    """
    known = agreement_N[~np.isnan(agreement_N)]
    if not len(known):
        return 1.0
    order = np.argsort(-np.abs(known))
    against = np.cumsum(known[order] < 0)
    sure = max(1, len(known) // 4)
    mistakes = against - against[sure - 1] / sure * np.arange(1, len(known) + 1)
    too_many = np.flatnonzero(mistakes > WRONG * len(known))
    return max(LEAST_CLEAR, float(np.abs(known[order[too_many[0]]])) if len(too_many) else 0.0)


def _folds(count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, FOLDS, count)


def _batches(
    indices: npt.NDArray[np.int64], tokens_NT: npt.NDArray[np.int16], thumbs_N2B: npt.NDArray[np.uint8]
) -> Iterator[tuple[Floats, Floats]]:
    for start in range(0, len(indices), 2048):
        part = indices[start : start + 2048]
        yield _one_hot(tokens_NT[part]), changes(thumbs_N2B[part])


def _one_hot(tokens_NT: npt.NDArray[np.int16]) -> Floats:
    """(N, 2 WORDS): what is asked or gained, and what is lost; each example of length 1."""
    words = np.zeros((len(tokens_NT), WORDS), np.float32)
    row, column = np.nonzero(tokens_NT)
    slot = tokens_NT[row, column].astype(np.int64)
    words[row, np.abs(slot) - 1] = np.sign(slot)
    return words / np.maximum(np.linalg.norm(words, axis=1, keepdims=True), 1e-6)


def _fit(batches: Iterator[tuple[Floats, Floats]]) -> Floats:
    """Ridge regression by its normal equations, (WORDS, FEATURES): memory does not grow with the data."""
    inner, outer = np.zeros((WORDS, WORDS), np.float32), np.zeros((WORDS, FEATURES), np.float32)
    for words, change in batches:
        inner += words.T @ words
        outer += words.T @ change
    return np.linalg.solve(inner + RIDGE * np.eye(WORDS, dtype=np.float32), outer)
