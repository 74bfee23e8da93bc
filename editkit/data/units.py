"""Which examples the rows of a table make: those that are kept, a turn each, there and back, in one split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from editkit.data.cells import number_at, texts_at
from editkit.data.fields import MISSING, find, starts_of
from editkit.data.row_groups import ParquetRows
from editkit.data.spec import DataSpec, Keep, Turns, as_list

Row = Mapping[str, Any]

MAX_TURNS = 100


class Units:
    """Every example as (row, turn, whether it is the way back).

    Args:
        spec: a data spec with a `[read]` table.
        rows: all rows.
        share: the split to take by a hash of keys, "train" or "test"; "" = all.
        key_of: the key of a row, by its number.
    """

    def __init__(self, spec: DataSpec, rows: Sequence[Row], share: str, key_of: Callable[[Row, int], str]) -> None:
        assert spec.read is not None
        self._spec, self._read = spec, spec.read
        self._share = share if spec.split.test or share == "test" else ""
        self._key_of = key_of
        if not (self._share or self._read.keep or self._read.turns or as_list(self._read.columns.inverse)):
            table = np.zeros((len(rows), 3), np.int64)
            table[:, 0] = np.arange(len(rows))
        else:
            found = [unit for number, row in self._rows(rows) for unit in self._of(row, number)]
            table = np.array(found, np.int64).reshape(-1, 3)
        self.rows, self.turns, self.backs = table[:, 0], table[:, 1], table[:, 2].astype(bool)

    def __len__(self) -> int:
        return len(self.rows)

    def _rows(self, rows: Sequence[Row]) -> Iterator[tuple[int, Row]]:
        """The rows with at least what is looked at here; where that is nothing, no row is read."""
        columns, turns = self._read.columns, self._read.turns
        places = [*(k.column for k in self._read.keep), *as_list(columns.inverse)]
        places += [columns.key, columns.group] if self._share else []
        places += [p.format(n=1, i=0) for p in (turns.each, turns.instruction, turns.target) if p] if turns else []
        if not any(places):
            return iter(enumerate([{}] * len(rows)))
        if isinstance(rows, ParquetRows):
            return iter(enumerate(rows.scan(columns_of([p for p in places if p], turns, rows.columns))))
        return iter(enumerate(rows))

    def _of(self, row: Row, number: int) -> Iterator[tuple[int, int, bool]]:
        if not self._is_in_share(row, number):
            return
        for turn in range(turns_in(row, self._read.turns)):
            seen = at_turn(row, self._read.turns, turn)
            if all(is_kept(seen, condition) for condition in self._read.keep):
                yield number, turn, False
                if any(texts_at(seen, as_list(self._read.columns.inverse))):
                    yield number, turn, True

    def _is_in_share(self, row: Row, number: int) -> bool:
        if not self._share:
            return True
        group = find(row, self._read.columns.group) if self._read.columns.group else MISSING
        name = self._key_of(row, number) if group is MISSING or group is None else str(group)
        digest = hashlib.sha256(f"{self._spec.name}/{name}".encode()).digest()
        is_test = int.from_bytes(digest[:8], "big") < self._spec.split.test * 2**64
        return is_test == (self._share == "test")


def turns_in(row: Row, turns: Turns | None) -> int:
    """How many edits a row holds."""
    if turns is None:
        return 1
    if turns.each:
        entries = find(row, turns.each)
        return len(entries) if isinstance(entries, (list, tuple)) else 0
    for turn in range(MAX_TURNS):
        cells = [find(row, place.format(n=turn + 1, i=turn)) for place in (turns.instruction, turns.target)]
        if any(c is MISSING or c is None or c == "" for c in cells):
            return turn
    return MAX_TURNS


def at_turn(row: Row, turns: Turns | None, turn: int) -> Row:
    """A row with what one of its turns says on top."""
    if turns is None or not turns.each:
        return row
    entry = find(row, turns.each)[turn]
    return {**row, **entry} if isinstance(entry, Mapping) else row


def is_kept(row: Row, condition: Keep) -> bool:
    """Whether a row fulfils a condition; one that has no value does not."""
    value = find(row, condition.column)
    if condition.one_of:
        return value is not MISSING and value in condition.one_of
    number = number_at(row, condition.column)
    if number is None or number != number:
        return False
    low = condition.at_least if condition.at_least is not None else float("-inf")
    high = condition.at_most if condition.at_most is not None else float("inf")
    return low <= number <= high


def counts_by_group(rows: np.ndarray, group_sizes: Iterable[int]) -> list[int]:
    """How many examples, in order of their rows, lie in each row group."""
    ends = np.cumsum(list(group_sizes))
    return np.diff(np.searchsorted(rows, ends), prepend=0).tolist()


def columns_of(places: Sequence[str], turns: Turns | None, columns: Sequence[str]) -> list[str]:
    """Those columns in which places lie, with all columns that numbered turns may have."""
    starts = [p.partition("{")[0].partition("[")[0] for p in (turns.instruction, turns.target) if p] if turns else []
    wanted = set(starts_of([p.replace("{n}", "1").replace("{i}", "0") for p in places], columns))
    return [c for c in columns if c in wanted or any(c.startswith(s) for s in starts)]
