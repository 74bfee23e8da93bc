"""What a build consists of: stages from rows to rows, each over parts that are whole or not there.

A part is one Parquet file in the folder of its stage. It is a pure function of the part before it and of what the stage says
of itself, so the bytes are the same whichever process makes it, and whatever is there need not be made again. The folder of a
stage is named by a hash over all that its parts depend on: another threshold makes the filter anew and not the pictures.

A part goes through consecutive stages while others are still at an earlier one. So a stage can release what stands before it,
part by part: the disk then never holds more of it than a few parts for each process.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from editkit.build.engine import Engine, Step
from editkit.build.rows import Row
from editkit.errors import UserError
from editkit.files import whole_file
from editkit.progress import progress

VERSION = 1  # of the parts; raised when old ones must not be used
DROPPED = "dropped"  # the column that says why a row goes no further; "" = it does
RELEASED = ".released"  # in place of .parquet: a part whose pictures the next stage needs no more


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
    def releases(self) -> bool:
        """Whether a part of the stage before, unless that one gathers, is emptied when this one's is whole."""
        ...

    @property
    def part_size(self) -> int:
        """Rows that the first stage is given at once; later ones are given the parts that are there."""
        ...

    def identity(self) -> Mapping[str, Any]:
        """All that the output depends on beside the input, as JSON has it."""
        ...

    def open(self) -> Callable[[list[Row]], list[Row]]:
        """Loads what the work needs, once a process; consecutive stages may be open in it together."""
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
    made: list[tuple[str, list[Part]]] = []
    for stages in _together(chain):
        folders: list[Path] = []
        for number, stage in enumerate(stages, len(made)):
            key = _hash({"before": key, "stage": stage.name, **stage.identity()})
            folder = work / f"{number}-{stage.name}-{key}"
            for stale in work.glob(f"{number}-*"):
                if stale != folder:
                    _refuse_to_lose(stale, folders, stage.name)
                    shutil.rmtree(stale)
            folders.append(folder)
        names = [stage.name for stage in stages]
        place = "-".join(str(n) for n in sorted({len(made) + 1, len(made) + len(stages)}))
        shown = label if len(chain) == 1 else f"{label}: {', '.join(names)} ({place} of {len(chain)})"
        if isinstance(stages[0], Gathering):
            results = [_run_gathering(stages[0], parts, folders[0], shown)]
        else:
            results = _run_together(stages, parts, folders, engine, shown)
        made += zip(names, results, strict=True)
        parts = results[-1]
    return made


def _refuse_to_lose(stale: Path, before: Sequence[Path], name: str) -> None:
    """Parts that were released cannot be had back, and may have taken days."""
    lost = len(list(before[-1].glob(f"*{RELEASED}"))) if before else 0
    if lost:
        raise UserError(
            f"{before[-1]}: found {lost} parts that were released to a {name} with other options; "
            f"expected those options again, or, to have these parts made anew, that you delete {stale}"
        )


def _together(chain: Sequence[Stage | Gathering]) -> list[list[Any]]:
    """Stages that stand side by side; each that gathers by itself."""
    found: list[list[Any]] = []
    for stage in chain:
        if not found or isinstance(stage, Gathering) or isinstance(found[-1][0], Gathering):
            found.append([])
        found[-1].append(stage)
    return found


def _run_together(
    stages: Sequence[Stage], parts: Sequence[Part], folders: Sequence[Path], engine: Engine, label: str
) -> list[list[Part]]:
    """Leads every part through all the stages; the bar counts the rows that the first one is given."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_half_written(folder)
    packed = pickle.dumps(list(stages))
    making = [_Making(packed, n, tuple(folders), s.releases and n > 0) for n, s in enumerate(stages)]
    rows = {p.file: p.count() for p in parts}
    there = {file for file in rows if all(m.is_done(file) for m in making)}
    if len(there) < len(parts):
        kept: Counter[bool] = sum((_kept(making, file) for file in there), Counter())
        steps = [Step(m, s.processes, s.accelerated) for m, s in zip(making, stages, strict=True)]
        with progress(sum(rows.values()), label, sum(rows[file] for file in there)) as bar:
            for part in engine.run(steps, (p for p in parts if p.file not in there)):
                kept += _kept(making, part.file)
                share = {} if not kept[False] else {"kept": f"{kept[True] / kept.total():.0%}"}
                bar.advance(rows[part.file], **share)
    return [[Part(p.split, p.index, m.found(p.file)) for p in parts] for m in making]


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


@dataclass(frozen=True, slots=True)
class _Making:
    """One of consecutive stages, as a function from the part before to its own."""

    packed: bytes  # all of them; pickled, so that a process opens each once
    number: int
    folders: tuple[Path, ...]
    releases: bool  # the part before

    def __call__(self, part: Part) -> Part:
        """In a worker."""
        path = self.found(part.file)
        if path is None:
            path, rows = self.folders[self.number] / part.file, part.rows()
            stages, opened = _opened(self.packed)
            stage = stages[self.number]
            make = opened.get(self.number) or opened.setdefault(self.number, stage.open())
            write_part(path, make(rows) if rows else [], stage.schema)
        if self.releases:
            _release(self.folders[self.number - 1] / part.file)
        return Part(part.split, part.index, path)

    def found(self, file: str) -> Path | None:
        """A part that is whole, or what is left of it if the next stage has taken it; None = it has to be made."""
        found = None
        for folder in reversed(self.folders[self.number :]):
            whole, left = folder / file, _left_of(folder / file)
            found = whole if whole.is_file() else left if found and left.is_file() else None
        return found

    def is_done(self, file: str) -> bool:
        """Whether nothing is left to do; one that was killed may not have released the part before."""
        return self.found(file) is not None and not (self.releases and (self.folders[self.number - 1] / file).is_file())


@lru_cache(maxsize=1)
def _opened(packed: bytes) -> tuple[list[Stage], dict[int, Callable[[list[Row]], list[Row]]]]:
    """Consecutive stages, and what a process has opened of them; it lets go of those of others first."""
    return pickle.loads(packed), {}


def _left_of(path: Path) -> Path:
    return path.with_suffix(RELEASED)


def _release(path: Path) -> None:
    """Leaves of a part why its rows went no further, for `reasons`."""
    if path.is_file():
        why = list(reasons(path).elements())
        write_part(_left_of(path), [{DROPPED: reason} for reason in why], pa.schema([(DROPPED, pa.string())]))
        path.unlink()


def write_part(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Writes a part; of a cluster, another worker may be writing the same one."""
    with whole_file(path, shared=True) as half:
        pq.write_table(pa.Table.from_pylist(list(rows), schema), half, row_group_size=100, compression="zstd")


def reasons(path: Path) -> Counter[str]:
    """Why rows of a part go no further, with how many; "" counts those that do."""
    file = pq.ParquetFile(path)
    if DROPPED not in file.schema_arrow.names:
        return Counter({"": file.metadata.num_rows})
    return Counter(file.read([DROPPED]).column(DROPPED).to_pylist())


def _kept(making: Sequence[_Making], file: str) -> Counter[bool]:
    """Rows of a part by whether they came through all of consecutive stages."""
    every = [reasons(path) for each in making if (path := each.found(file))]
    dropped = sum(n for each in every for reason, n in each.items() if reason)
    return Counter({True: sum(n for reason, n in every[-1].items() if not reason), False: dropped})


def _remove_half_written(folder: Path) -> None:
    for half in folder.glob("*.half"):
        half.unlink()


def _hash(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
