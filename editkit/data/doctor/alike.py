"""Pictures that are there more than once: in both splits, in an evaluation set, twice in one split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from editkit.data.doctor.hashes import LOOSE, STRICT, Hashes, Indices, candidates, hashes_of, same_picture

BATCH = 65_536

Bools = npt.NDArray[np.bool_]


class Pictures:
    """The pictures of all records, one row each.

    Attributes:
        row: of the record.
        role: 0 = source or image, 1 = target.
        group: number of the record's group.
        content: hash of the pixels.
    """

    def __init__(self, rows: Any, group_of_row: npt.NDArray[np.int16]) -> None:
        self._rows = rows
        held = np.array(rows["pictures"])
        places = [(np.flatnonzero(held > role), role) for role in (0, 1)]
        self.row: Indices = np.concatenate([at for at, _ in places])
        self.role = np.concatenate([np.full(len(at), role, np.uint8) for at, role in places])
        self.group = group_of_row[self.row]
        self.content: Hashes = np.concatenate([_column(rows, "content", at, role) for at, role in places]).astype(np.uint64)
        self.hashes: Hashes = np.concatenate([hashes_of(t) for t in self._batches()] or [np.zeros(0, np.uint64)])

    def __len__(self) -> int:
        return len(self.row)

    def _batches(self) -> Iterator[npt.NDArray[np.uint8]]:
        for start in range(0, len(self), BATCH):
            yield self.thumbs(np.arange(start, min(start + BATCH, len(self))))

    def thumbs(self, which: Indices) -> npt.NDArray[np.uint8]:
        """Thumbnails of these pictures."""
        return np.array(self._rows["thumb"][self.row[which], self.role[which]])

    def same(self, first: Indices, second: Indices, how: tuple[float, float] = STRICT) -> Bools:
        """Which pairs are one picture, bit by bit or nearly."""
        equal = self.content[first] == self.content[second]
        open_ = np.flatnonzero(~equal)
        for start in range(0, len(open_), BATCH):
            part = open_[start : start + BATCH]
            equal[part] = same_picture(self.thumbs(first[part]), self.thumbs(second[part]), how)
        return equal


def matches_between(pictures: Pictures, wanted: Bools, within: Bools) -> dict[int, tuple[int, bool]]:
    """Row of a wanted picture -> (row of one that is the same among `within`, whether in every bit).

    Args:
        pictures: all of them.
        wanted, within: two sets of pictures without a common one.
    """
    found: dict[int, tuple[int, bool]] = {}
    second = np.flatnonzero(within)
    second = second[np.argsort(pictures.content[second], kind="stable")]
    sorted_ = pictures.content[second]
    first = np.flatnonzero(wanted)
    if not len(first) or not len(second):
        return found
    at = np.minimum(np.searchsorted(sorted_, pictures.content[first]), len(second) - 1)
    equal = sorted_[at] == pictures.content[first]
    for a, b in zip(pictures.row[first[equal]], pictures.row[second[at[equal]]], strict=True):
        found.setdefault(int(a), (int(b), True))
    member = np.flatnonzero(wanted | within)
    for i, j in candidates(pictures.hashes[member]):
        a, b = member[i], member[j]
        a, b = np.where(wanted[a], a, b), np.where(wanted[a], b, a)
        across = wanted[a] & within[b]
        a, b = a[across], b[across]
        if len(a):
            new = ~np.isin(pictures.row[a], np.fromiter(found, np.int64, len(found)))
            a, b = a[new], b[new]
        alike = pictures.same(a, b)
        for x, y in zip(pictures.row[a[alike]], pictures.row[b[alike]], strict=True):
            found.setdefault(int(x), (int(y), False))
    return found


def repeats(rows: Any, pictures: Pictures, group: int) -> dict[int, tuple[int, bool]]:
    """Row -> (an earlier row of the same group with the same pictures and the same first instruction, whether in every bit)."""
    found: dict[int, tuple[int, bool]] = {}
    mine = np.flatnonzero((pictures.group == group) & (pictures.role == 0))
    if len(mine) < 2:
        return found
    row = pictures.row[mine]
    content = _mixed(rows, row)
    order = np.lexsort((row, content))
    equal = content[order][1:] == content[order][:-1]
    for at in np.flatnonzero(equal):
        earlier = int(row[order[at]])
        found[int(row[order[at + 1]])] = (found.get(earlier, (earlier, True))[0], True)
    text = np.array(rows["text"][row])
    second_of = {}
    targets = np.flatnonzero((pictures.group == group) & (pictures.role == 1))
    if len(targets):
        second_of = dict(zip(pictures.row[targets].tolist(), targets.tolist(), strict=True))
    for i, j in candidates(pictures.hashes[mine]):
        said = text[i] == text[j]
        i, j = np.minimum(i[said], j[said]), np.maximum(i[said], j[said])
        alike = pictures.same(mine[i], mine[j], LOOSE)
        for a, b in zip(i[alike].tolist(), j[alike].tolist(), strict=True):
            first, second = int(row[a]), int(row[b])
            ends = [np.array([second_of[r]]) for r in (first, second) if r in second_of]
            if second not in found and (len(ends) < 2 or pictures.same(ends[0], ends[1], LOOSE)[0]):
                found[second] = (first, False)
    return found


def _column(rows: Any, name: str, at: Indices, role: int) -> npt.NDArray[np.generic]:
    return np.array(rows[name][at, role]) if len(at) else np.zeros(0, np.uint64)


def _mixed(rows: Any, at: Indices) -> Hashes:
    """One number of both pictures and the text."""
    contents, text = np.array(rows["content"][at]), np.array(rows["text"][at])
    with np.errstate(over="ignore"):
        return (contents[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ contents[:, 1]) * np.uint64(0xC2B2AE3D27D4EB4F) ^ text
