"""What is kept of every example until all have been seen: rows in a temporary file, not in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from editkit.data.doctor.exam import RECORD


class Records:
    """Rows of RECORD of several groups (splits, evaluation sets), written one behind the other, then read as one array."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="editkit-check-")
        self._path = Path(self._folder.name) / "records"
        self._file = self._path.open("wb")
        self._mapped: Any = None
        self.starts: dict[str, int] = {}  # group -> number of its first row
        self.counts: dict[str, int] = {}

    def __enter__(self) -> Records:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._mapped = None
        self._folder.cleanup()

    def __len__(self) -> int:
        return sum(self.counts.values())

    def append(self, group: str, rows: npt.NDArray[np.void]) -> None:
        """Adds rows to a group; groups come one behind the other."""
        self.starts.setdefault(group, len(self))
        self.counts[group] = self.counts.get(group, 0) + len(rows)
        self._file.write(rows.tobytes())

    def rows(self) -> Any:
        """All rows, mapped from the file."""
        self._file.flush()
        if not len(self):
            return np.zeros(0, RECORD)
        if self._mapped is None or len(self._mapped) != len(self):
            self._mapped = np.memmap(self._path, RECORD, "r", shape=(len(self),))
        return self._mapped

    def place(self, row: int) -> tuple[str, int]:
        """(group, number within it) of a row."""
        group = max((g for g in self.starts if self.counts[g] and self.starts[g] <= row), key=lambda g: self.starts[g])
        return group, row - self.starts[group]
