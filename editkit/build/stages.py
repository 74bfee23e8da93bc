"""What a build consists of: stages from rows to rows, each over parts that are whole or not there.

A part is one Parquet file in the folder of its stage. It is a pure function of the part before it and of what the stage says
of itself, so the bytes are the same whichever process makes it, and whatever is there need not be made again. The folder of a
stage is named by a hash over all that its parts depend on: another threshold makes the filter anew and not the pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from editkit.build.engine import Engine
from editkit.build.rows import Row
from editkit.progress import progress

VERSION = 1  # of the parts; raised when old ones must not be used
DROPPED = "dropped"  # the column that says why a row goes no further; "" = it does


class Stage(Protocol):
    """From rows to rows. Pickled to the workers, so it holds options only.

    The first stage is given rows {"split", "index"}, each later one the kept rows of the one before.
    """

    @property
    def name(self) -> str: ...

    @property
    def schema(self) -> pa.Schema:
        """The columns of its rows; `DROPPED` among them where rows may be dropped."""
        ...

    @property
    def processes(self) -> int:
        """At most so many at once; 0 = as many as the engine has."""
        ...

    @property
    def accelerated(self) -> bool:
        """Whether it computes on an accelerator, where there is one."""
        ...

    @property
    def part_size(self) -> int:
        """Rows that the first stage is given at once; later ones are given the parts that are there."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """All that the output depends on beside the input, as JSON has it."""
        ...

    def open(self) -> Callable[[list[Row]], list[Row]]:
        """Loads what the work needs, once a process."""
        ...


@runtime_checkable
class Gathering(Protocol):
    """A stage that has to see all rows in their order, such as one that looks for duplicates. It runs in one process."""

    @property
    def name(self) -> str: ...

    @property
    def schema(self) -> pa.Schema:
        """The columns of its rows; `DROPPED` among them where rows may be dropped."""
        ...

    @property
    def part_size(self) -> int:
        """Rows of the parts that it makes."""
        ...

    def identity(self) -> Mapping[str, Any]: ...

    def gather(self, rows: Iterator[Row]) -> Iterator[Row]:
        """All rows of all splits, those that are dropped with their reason."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one split: `index` numbers the parts of a split, `start` and `stop` its first rows where nothing made them."""

    split: str
    index: int
    path: Path | None = None
    start: int = 0
    stop: int = 0

    @property
    def file(self) -> str:
        return f"{self.split}-{self.index:06d}.parquet"

    def rows(self) -> list[Row]:
        """The rows that go further."""
        if self.path is None:
            return [{"split": self.split, "index": i} for i in range(self.start, self.stop)]
        return [{"split": self.split, **row} for row in pq.read_table(self.path).to_pylist() if not row.get(DROPPED)]

    def count(self) -> int:
        """How many rows go further."""
        if self.path is None:
            return self.stop - self.start
        return sum(n for reason, n in reasons(self.path).items() if not reason)


@dataclass(frozen=True, slots=True)
class _Task:
    stage: bytes  # pickled, so that a process opens it once
    part: Part
    path: Path


def first_parts(counts: Mapping[str, int], size: int) -> list[Part]:
    """The numbers of the examples that are asked for, in parts."""
    return [
        Part(split, number, None, start, min(start + size, count))
        for split, count in counts.items()
        for number, start in enumerate(range(0, count, size))
    ]


def run_stages(
    chain: Sequence[Stage | Gathering], counts: Mapping[str, int], work: Path, engine: Engine, label: str
) -> list[tuple[str, list[Part]]]:
    """Brings every stage to its end, going on from what lies in `work`.

    Returns:
        (name, parts) of every stage, in order.
    """
    work = work.resolve()  # a worker of a cluster may begin in another folder
    key = _hash({"version": VERSION, "counts": dict(counts)})
    parts = first_parts(counts, chain[0].part_size)
    made = []
    for number, stage in enumerate(chain):
        key = _hash({"before": key, "stage": stage.name, **stage.identity()})
        folder = work / f"{number}-{stage.name}-{key}"
        for stale in work.glob(f"{number}-*"):
            if stale != folder:
                shutil.rmtree(stale)
        shown = label if len(chain) == 1 else f"{label}: {stage.name} ({number + 1} of {len(chain)})"
        if isinstance(stage, Gathering):
            parts = _run_gathering(stage, parts, folder, shown)
        else:
            parts = _run_stage(stage, parts, folder, engine, shown)
        made.append((stage.name, parts))
    return made


def _run_stage(stage: Stage, parts: Sequence[Part], folder: Path, engine: Engine, label: str) -> list[Part]:
    folder.mkdir(parents=True, exist_ok=True)
    _remove_half_written(folder)
    packed = pickle.dumps(stage)
    there = [p for p in parts if (folder / p.file).is_file()]
    tasks = [_Task(packed, p, folder / p.file) for p in parts if not (folder / p.file).is_file()]
    total, done = sum(p.count() for p in parts), sum(p.count() for p in there)
    kept: Counter[bool] = Counter()
    for part in there:
        kept.update(_kept(folder / part.file))
    if tasks:
        with progress(total, label, done) as bar:
            for taken, found in engine.run(_make_part, tasks, stage.processes, stage.accelerated):
                kept.update(found)
                share = {} if not kept[False] else {"kept": f"{kept[True] / sum(kept.values()):.0%}"}
                bar.advance(taken, **share)
    return [Part(p.split, p.index, folder / p.file) for p in parts]


def _run_gathering(stage: Gathering, parts: Sequence[Part], folder: Path, label: str) -> list[Part]:
    """All or nothing, by one rename: it takes seconds where the stages around it take hours."""
    if not folder.is_dir():
        half = folder.with_name(folder.name + ".half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        with progress(sum(p.count() for p in parts), label) as bar:
            _gather(stage, parts, half, bar.advance)
        half.rename(folder)
    found = sorted(folder.glob("*.parquet"))
    made = [Part(p.stem.rpartition("-")[0], int(p.stem.rpartition("-")[2]), p) for p in found]
    order = {split: i for i, split in enumerate(dict.fromkeys(p.split for p in parts))}
    return sorted(made, key=lambda p: (order[p.split], p.index))


def _gather(stage: Gathering, parts: Sequence[Part], folder: Path, advance: Callable[[int], None]) -> None:
    """Cuts what comes out into parts that have the same number of kept rows, so that the work after it is even."""
    pending: list[Row] = []
    numbers: Counter[str] = Counter()

    def flush() -> None:
        if pending:
            split = pending[0]["split"]
            write_part(folder / Part(split, numbers[split]).file, pending, stage.schema)
            numbers[split] += 1
            pending.clear()

    for row in stage.gather(row for part in parts for row in part.rows()):
        kept = sum(not r[DROPPED] for r in pending)
        if pending and (pending[0]["split"] != row["split"] or kept == stage.part_size):
            flush()
        pending.append(row)
        advance(1)
    flush()


def _make_part(task: _Task) -> tuple[int, Counter[bool]]:
    """In a worker: one part, from its file to the next stage's; (rows taken, rows by whether they go further)."""
    stage, make = _opened(task.stage)
    rows = task.part.rows()
    write_part(task.path, make(rows) if rows else [], stage.schema)
    return len(rows), _kept(task.path)


@lru_cache(maxsize=1)
def _opened(packed: bytes) -> tuple[Stage, Callable[[list[Row]], list[Row]]]:
    stage = pickle.loads(packed)
    return stage, stage.open()


def write_part(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Writes a file that is whole or not there, whenever the process or the machine stops."""
    with whole_file(path) as half:
        pq.write_table(pa.Table.from_pylist(list(rows), schema), half, row_group_size=100, compression="zstd")


@contextlib.contextmanager
def whole_file(path: Path) -> Generator[Path, None, None]:
    """A name to write to, which becomes `path` when the block ends well."""
    half = path.with_name(f"{path.name}.{os.getpid()}.half")
    yield half
    with half.open("rb") as file:
        os.fsync(file.fileno())
    half.replace(path)


def reasons(path: Path) -> Counter[str]:
    """Why rows of a part go no further, with how many; "" counts those that do."""
    file = pq.ParquetFile(path)
    if DROPPED not in file.schema_arrow.names:
        return Counter({"": file.metadata.num_rows})
    return Counter(file.read([DROPPED]).column(DROPPED).to_pylist())


def _kept(path: Path) -> Counter[bool]:
    found: Counter[bool] = Counter()
    for reason, count in reasons(path).items():
        found[not reason] += count
    return found


def _remove_half_written(folder: Path) -> None:
    for half in folder.glob("*.half"):
        half.unlink()


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
