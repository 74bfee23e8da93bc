"""Opening data sets: our own folders, and through a spec whatever others have."""

from __future__ import annotations

import bisect
import hashlib
import importlib
import itertools
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from editkit.data.examples import CaptionedImage, Dataset, EditPair, Example
from editkit.data.formats import open_foreign
from editkit.data.pictures import Picture
from editkit.data.spec import DataSpec, data_folder, load_spec, spec_hash
from editkit.errors import UserError

T = TypeVar("T")

FORMAT = 1
RESIDENT_BYTES = 4 * 2**30  # of a data set's row groups in memory

# What makes a data set that is not there yet; a dotted path, since this room does not know the builders.
BUILD = "editkit.build"


def open_dataset(where: str, split: str = "train", *, limit: int = 0) -> Dataset[Any]:
    """Opens one split of a data set.

    Args:
        where: a data spec (*.toml), a data-set folder of ours, or its URL (anything that fsspec knows: "s3://...", "hf://...").
        split: "train" or "test".
        limit: take only the first N examples; 0 = all.

    Raises:
        UserError: it is not there, or is not what it should be.
    """
    path = Path(where)
    if path.suffix == ".toml":
        spec, _ = load_spec(path)
        if spec.read is not None:
            return _limited(open_foreign(spec, path.parent, split), limit)
        return _limited(ParquetDataset(_built_folder(path, spec), split), limit)
    if "://" in where:
        return _limited(ParquetDataset(where, split), limit)
    if not (path / "dataset.json").is_file():
        raise UserError(f"{where}: found no data set; expected a data spec (*.toml) or a folder with dataset.json")
    return _limited(ParquetDataset(path, split), limit)


def _built_folder(path: Path, spec: DataSpec) -> Path:
    folder = data_folder(spec)
    if not (folder / "dataset.json").is_file():
        print(f"{folder}: not built yet, building it")
        return importlib.import_module(BUILD).build(str(path))
    if json.loads((folder / "dataset.json").read_text(encoding="utf-8")).get("spec_sha256") != spec_hash(spec):
        raise UserError(f'{folder}: was built from another version of {path}; run "editkit build {path}" to build it anew')
    return folder


class ParquetDataset:
    """A split of a data-set folder of ours, on the local disk or behind any URL that fsspec knows.

    Rows are read a row group at a time and kept up to RESIDENT_BYTES, so that a data set may be larger than memory.
    """

    def __init__(self, where: str | Path, split: str) -> None:
        self._where = str(where)
        self._split = split
        self._fs, self._root = url_to_fs(self._where)
        try:
            self._manifest = json.loads(self._fs.cat_file(f"{self._root}/dataset.json"))
        except FileNotFoundError as error:
            raise UserError(f"{where}: found no dataset.json; expected a data-set folder that editkit build wrote") from error
        if self._manifest["format"] > FORMAT:
            raise UserError(
                f"{where}: found format {self._manifest['format']}; this version knows up to {FORMAT}; update editkit"
            )
        if split not in self._manifest["counts"]:
            raise UserError(f'{where}: found no split "{split}"; it has {", ".join(self._manifest["counts"])}')
        self._make = _edit_pair if self._manifest["kind"] == "edit_pairs" else _captioned_image
        self._resident = _Resident(RESIDENT_BYTES)

    @property
    def info(self) -> Mapping[str, Any]:
        return self._manifest

    @property
    def shards(self) -> list[str]:
        """The files of this split, in order."""
        return sorted(self._fs.glob(f"{self._root}/data/{self._split}-*.parquet"))

    @property
    def group_sizes(self) -> list[int]:
        """Rows of each row group, in order: what is read at once."""
        return [group.rows for group in self._groups]

    @property
    def window(self) -> int:
        """How many row groups can be shuffled together so that they stay in memory; 0 = all."""
        nbytes = [group.nbytes for group in self._groups]
        return 0 if sum(nbytes) <= RESIDENT_BYTES else max(1, RESIDENT_BYTES // (2 * max(nbytes)))

    def verify(self) -> None:
        """Compares the shards with the hashes that were written with them; what lies behind a URL is compared as it is read.

        Raises:
            UserError: a shard is missing or was changed.
        """
        for name, digest in self._manifest["shards"].items():
            path = Path(self._root) / "data" / name
            if not _is_local(self._fs):
                if not self._fs.exists(f"{self._root}/data/{name}"):
                    raise UserError(f"{self._where}/data/{name}: is missing; upload the data set anew")
            elif not path.is_file() or _sha256(path) != digest:
                raise UserError(f"{path}: is missing or not what was built; build the data set anew")

    def __len__(self) -> int:
        return self._manifest["counts"][self._split]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._starts, index) - 1
        table = self._resident.get(number, lambda: self._read_group(number))
        return self._make(table.slice(index - self._starts[number], 1).to_pylist()[0])

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens the files itself."""
        dropped = ("_groups", "_starts", "_resident")
        return {k: v for k, v in self.__dict__.items() if k not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_resident": _Resident(RESIDENT_BYTES)}

    @cached_property
    def _groups(self) -> list[_Group]:
        groups = []
        for shard in self.shards:
            metadata = self._reading(lambda shard=shard: pq.read_metadata(shard, filesystem=self._fs))
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                groups.append(_Group(shard, number, group.num_rows, group.total_byte_size))
        if not groups:
            raise UserError(f'{self._where}: found no shards of "{self._split}"; build the data set anew')
        return groups

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(group.rows for group in self._groups)][:-1]

    def _read_group(self, number: int) -> pa.Table:
        group = self._groups[number]
        return self._reading(lambda: _read_row_group(self._fs, group))

    def _reading(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{self._where}: a shard cannot be read ({error}); build the data set anew") from error


@dataclass(frozen=True, slots=True)
class _Group:
    shard: str
    number: int
    rows: int
    nbytes: int


def _read_row_group(fs: Any, group: _Group) -> pa.Table:
    with pq.ParquetFile(group.shard, filesystem=fs, memory_map=_is_local(fs)) as file:
        return file.read_row_group(group.number).combine_chunks()


def _is_local(fs: Any) -> bool:
    return "file" in fs.protocol


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Resident:
    """Row groups in memory, those that were used longest ago dropped first; asked by several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()
        self._being_read: dict[int, threading.Lock] = {}

    def get(self, number: int, read: Callable[[], pa.Table]) -> pa.Table:
        """The table of a row group; two threads that want the same one read it once."""
        with self._lock:
            if number in self._tables:
                self._tables.move_to_end(number)
                return self._tables[number]
            turn = self._being_read.setdefault(number, threading.Lock())
        with turn:
            with self._lock:
                if number in self._tables:
                    return self._tables[number]
            table = read()
            with self._lock:
                self._tables[number] = table
                self._nbytes += table.nbytes
                self._being_read.pop(number, None)
                while self._nbytes > self._limit_bytes and len(self._tables) > 1:
                    self._nbytes -= self._tables.popitem(last=False)[1].nbytes
            return table


class Concatenated:
    """Several data sets of one kind, one behind the other."""

    def __init__(self, datasets: Sequence[Dataset[Any]]) -> None:
        self.parts = list(datasets)
        self._ends = list(itertools.accumulate(len(d) for d in datasets))
        kinds = {d.info["kind"] for d in datasets}
        if len(kinds) > 1:
            raise UserError(f"data.mix: found data sets of {' and '.join(sorted(kinds))}; expected one kind")
        first = datasets[0].info
        self._info = dict(first) | {
            "name": " + ".join(d.info["name"] for d in datasets),
            "sha256": hashlib.sha256("".join(d.info["sha256"] for d in datasets).encode()).hexdigest(),
            "counts": dict(sum((Counter(d.info["counts"]) for d in datasets), Counter())),
            "licences": _joined_licences([d.info.get("licences", {}) for d in datasets]),
        }

    @property
    def info(self) -> Mapping[str, Any]:
        return self._info

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect.bisect_right(self._ends, index)
        return self.parts[which][index - (self._ends[which - 1] if which else 0)]


def _joined_licences(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    joined: dict[str, dict[str, Any]] = {}
    for name, said in ((n, s) for part in parts for n, s in part.items()):
        before = joined.get(name, {"count": 0, "credit": said["credit"]})
        credit = before["credit"] if said["credit"] in before["credit"] else f"{before['credit']}; {said['credit']}"
        joined[name] = {"count": before["count"] + said["count"], "credit": credit}
    return joined


class Limited:
    """The first examples of a data set."""

    def __init__(self, dataset: Dataset[Any], count: int) -> None:
        self._dataset = dataset
        self._count = min(count, len(dataset))

    @property
    def info(self) -> Mapping[str, Any]:
        return self._dataset.info

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._dataset[index]


def _limited(dataset: Dataset[Any], limit: int) -> Dataset[Any]:
    return Limited(dataset, limit) if limit else dataset


def _picture(cell: Mapping[str, Any], name: str) -> Picture:
    return Picture(data=cell["bytes"] or b"", label=name)


def _edit_pair(row: Mapping[str, Any]) -> EditPair:
    key = row["key"]
    return EditPair(
        key=key,
        source=_picture(row["source"], f"{key} (source)"),
        target=_picture(row["target"], f"{key} (target)"),
        instructions=tuple(row["instructions"]),
        category=row["category"],
        mask=_picture(row["mask"], f"{key} (mask)") if row["mask"] else None,
        source_caption=row["source_caption"],
        target_caption=row["target_caption"],
        source_facts=json.loads(row["source_facts"]),
        target_facts=json.loads(row["target_facts"]),
        licence=row["licence"],
    )


def _captioned_image(row: Mapping[str, Any]) -> CaptionedImage:
    return CaptionedImage(
        key=row["key"],
        image=_picture(row["image"], row["key"]),
        captions=tuple(row["captions"]),
        facts=json.loads(row["facts"]),
        licence=row["licence"],
    )
