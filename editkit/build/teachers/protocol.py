"""What a teacher of texts gives: the rows of the stage "propose"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from editkit.build.rows import TEXTS, Row

PROPOSALS = pa.schema(
    [
        ("key", pa.string()),  # unique in the data set: "train-000012"
        ("parent", pa.string()),  # what it was made from: the key of a captioned picture, "" where nothing was there
        ("caption", pa.string()),
        ("edited_caption", pa.string()),
        ("instructions", TEXTS),
        ("category", pa.string()),
        ("facts", pa.string()),  # JSON {"source", "target"}: attributes that the captions ask for, where a world knows them
        ("teacher", pa.string()),  # JSON: who proposed it, in which version, with which parameters
        ("dropped", pa.string()),
    ]
)


class Teacher(Protocol):
    """Holds options only; `open` loads what it needs."""

    @property
    def processes(self) -> int:
        """See `editkit.build.stages.Stage`."""
        ...

    @property
    def accelerated(self) -> bool:
        """See `editkit.build.stages.Stage`."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """Name, version and parameters."""
        ...

    def open(self) -> Callable[[list[Row]], list[Row]]:
        """From rows {"split", "index"} to rows of `PROPOSALS`."""
        ...


@dataclass(frozen=True)
class Propose:
    """The stage "propose"."""

    teacher: Teacher
    part_size: int
    name = "propose"
    schema = PROPOSALS
    releases = False

    @property
    def processes(self) -> int:
        return self.teacher.processes

    @property
    def accelerated(self) -> bool:
        return self.teacher.accelerated

    def identity(self) -> Mapping[str, Any]:
        return {"teacher": dict(self.teacher.identity()), "part_size": self.part_size}

    def open(self) -> Callable[[list[Row]], list[Row]]:
        return self.teacher.open()


def key_of(row: Row) -> str:
    """The key of the proposal that is asked for."""
    return f"{row['split']}-{row['index']:06d}"
