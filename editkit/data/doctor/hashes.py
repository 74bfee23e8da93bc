"""Pictures that are nearly alike, found among millions without comparing each with each.

A picture is a 64-bit hash and a thumbnail. Two pictures are candidates where 26 bits in two of five blocks of the hash agree,
for some choice of the two (Manku, Jain and Das Sarma 2007, "Detecting near-duplicates for web crawling"): that finds all
hashes that differ in up to three bits, by ten sorts. Candidates whose thumbnails agree as well are the same picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

GRID = 16  # cells a side of a thumbnail's luma; of its colours half as many
THUMBNAIL = GRID**2 + 2 * (GRID // 2) ** 2  # bytes
_BLOCKS = (13, 13, 13, 13, 12)  # bits
WINDOW = 64  # neighbours that a picture is compared with where more share a block; equal hashes stand beside each other
MAX_BITS = 10  # by which hashes of one picture may differ; what counts is the thumbnail
_DEAD = 6.0  # levels; a difference must be larger to count, so that noise on flat areas flips no bit
LUMA_LIMIT, COLOUR_LIMIT = 14.0, 12.0  # levels by which a cell of a copy may differ, its tone being adjusted
LUMA_MEAN, COLOUR_MEAN = 4.0, 3.0  # and all cells in the mean
# A copy differs a little everywhere, an edit much in one place: by so many times the mean may the worst cell differ, and by so
# many levels in any case. Where more speaks for it than one picture, such as an equal text, the looser of the two is enough.
STRICT, LOOSE = (8.0, 3.0), (9.0, 4.0)
TONE = (0.8, 1.25)  # contrasts that a copy may have
TONE_LIMIT, FLAT_LIMIT = 24.0, 4.0  # levels that it may be brighter or darker; and where it is of one colour


def thumbnail(image: Image.Image) -> Bytes:
    """THUMBNAIL bytes of an RGB picture: luma, and both colours at half the resolution."""
    grid = image.resize((GRID, GRID), Image.Resampling.BOX) if min(image.size) >= GRID else image.resize((GRID, GRID))
    luma, *colours = grid.convert("YCbCr").split()
    return np.frombuffer(b"".join([luma.tobytes(), *(c.reduce(2).tobytes() for c in colours)]), np.uint8)


def split_thumbnail(thumbs_N: Bytes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Luma (..., GRID, GRID) and colours (..., 2, GRID/2, GRID/2) of thumbnails (..., THUMBNAIL)."""
    shape = thumbs_N.shape[:-1]
    luma = thumbs_N[..., : GRID**2].astype(np.float32).reshape(*shape, GRID, GRID)
    return luma, thumbs_N[..., GRID**2 :].astype(np.float32).reshape(*shape, 2, GRID // 2, GRID // 2)


def hashes_of(thumbs_NB: Bytes) -> Hashes:
    """The hash of each thumbnail: 32 bits of luma that rises from cell to cell, 32 of how strong the colours are, coarsely."""
    luma, colours = split_thumbnail(thumbs_NB)
    count = len(thumbs_NB)
    luma = luma.reshape(count, 8, 2, 8, 2).mean((2, 4))
    rising = (luma[:, :, 1:] - luma[:, :, :-1] > _DEAD).reshape(count, -1)[:, ::2]  # 28
    down = (luma[:, 1:] - luma[:, :-1] > _DEAD).reshape(count, -1)[:, 5::14]  # 4
    cells = colours.reshape(count, 2, 4, 2, 4, 2).mean((3, 5)).reshape(count, -1) > 128 + _DEAD  # 32
    bits = np.concatenate([rising, down, cells], axis=1)
    # The blocks shall each have bits of all kinds, so that pictures that share one block are few.
    return np.ascontiguousarray(np.packbits(bits[:, _ORDER], axis=1)).view(">u8").ravel().astype(np.uint64)


_ORDER = np.random.default_rng(64).permutation(64)


def same_picture(first_NB: Bytes, second_NB: Bytes, how: tuple[float, float] = STRICT) -> npt.NDArray[np.bool_]:
    """Which thumbnails are of one picture, coded anew, scaled, or a little brighter or flatter.

    Args:
        first_NB, second_NB: as `thumbnail` gives them.
        how: STRICT or LOOSE.
    """
    luma_a, colours_a = split_thumbnail(first_NB)
    luma_b, colours_b = split_thumbnail(second_NB)
    mean_a, mean_b = (luma.mean((1, 2), keepdims=True) for luma in (luma_a, luma_b))
    spread_a, spread_b = (luma.std((1, 2), keepdims=True) for luma in (luma_a, luma_b))
    gain = np.where(spread_b > 2, spread_a / np.maximum(spread_b, 1e-6), 1.0)
    error = (luma_b - mean_b) * gain - (luma_a - mean_a)
    smooth = np.abs(_smoothed(error))  # what scaling does beside an edge changes its sign from cell to cell
    colours = np.abs(colours_a - colours_b).reshape(len(colours_a), -1)
    flat = (spread_a < 2) & (spread_b < 2)  # of pictures of one colour each, brightness is all there is
    toned = (gain > TONE[0]) & (gain < TONE[1]) & (np.abs(mean_a - mean_b) < np.where(flat, FLAT_LIMIT, TONE_LIMIT))
    worst, times = smooth.max((1, 2)), how[0] * smooth.mean((1, 2))
    near = worst <= np.minimum(LUMA_LIMIT, np.maximum(how[1], times))
    near &= (np.abs(error).mean((1, 2)) < LUMA_MEAN) & (colours.max(1) <= COLOUR_LIMIT) & (colours.mean(1) < COLOUR_MEAN)
    return toned[:, 0, 0] & near


def _smoothed(error_NGG: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Binomial, 1 2 1 along both axes."""
    padded = np.pad(error_NGG, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = 0.25 * (padded[:, :-2] + padded[:, 2:]) + 0.5 * padded[:, 1:-1]
    return 0.25 * (rows[:, :, :-2] + rows[:, :, 2:]) + 0.5 * rows[:, :, 1:-1]


def candidates(hashes_N: Hashes, window: int = WINDOW) -> Iterator[tuple[Indices, Indices]]:
    """Pairs (i, j) whose hashes nearly agree, block by block; a pair may come more than once.

    Sorts ten times, then looks at no more than `window` neighbours of each: N log N, whatever the data is.
    """
    for shift, mixed in _rearranged(hashes_N):
        order = np.argsort(mixed)
        sorted_ = mixed[order]
        keys = sorted_ >> shift
        for step in range(1, min(window, len(order) - 1) + 1):
            at = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(at):
                break
            near = np.bitwise_count(sorted_[at] ^ sorted_[at + step]) <= MAX_BITS
            yield order[at[near]], order[at[near] + step]


def _rearranged(hashes_N: Hashes) -> Iterator[tuple[np.uint64, Hashes]]:
    """The hashes with two of the five blocks of bits in front, in each of the ten ways, and by how many bits these stand."""
    ends = list(itertools.accumulate(_BLOCKS))
    blocks = [(hashes_N >> np.uint64(end - bits)) & np.uint64(2**bits - 1) for bits, end in zip(_BLOCKS, ends, strict=True)]
    for front in itertools.combinations(range(len(blocks)), 2):
        mixed = np.zeros_like(hashes_N)
        for block in (*front, *(b for b in range(len(blocks)) if b not in front)):
            mixed = (mixed << np.uint64(_BLOCKS[block])) | blocks[block]
        yield np.uint64(64 - sum(_BLOCKS[b] for b in front)), mixed
