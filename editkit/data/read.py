"""Opening data sets: our own folders, and through a spec whatever others have."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import importlib
import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from editkit.data.combine import Limited
from editkit.data.examples import CaptionedImage, Dataset, EditPair, Example
from editkit.data.formats import open_foreign
from editkit.data.pictures import Picture
from editkit.data.spec import DataSpec, data_folder, load_spec, spec_hash
from editkit.errors import UserError

T = TypeVar("T")

FORMAT = 1
RESIDENT_BYTES = 4 * 2**30  # of a data set's row groups in memory
ROW_BYTES = 1024  # of an example in memory beside what Arrow counts: a Python object for every value

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
        self._fs, self._root = _file_system(self._where)
        self._manifest = self._read_manifest()
        if split not in self._manifest["counts"]:
            raise UserError(f'{where}: found no split "{split}"; it has {", ".join(self._manifest["counts"])}')
        self._make = _edit_pair if self._manifest["kind"] == "edit_pairs" else _captioned_image
        self._resident = _Resident(RESIDENT_BYTES)

    def _read_manifest(self) -> Mapping[str, Any]:
        text = self._reading("dataset.json", lambda: self._fs.cat_file(f"{self._root}/dataset.json"))
        try:
            manifest = json.loads(text)
            found = manifest["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._where}: dataset.json cannot be read; build the data set anew") from error
        if found > FORMAT:
            raise UserError(f"{self._where}: found format {found}; this version knows up to {FORMAT}; update editkit")
        return manifest

    @property
    def info(self) -> Mapping[str, Any]:
        return self._manifest

    @property
    def shards(self) -> list[str]:
        """The files of this split, in order; as dataset.json has them, because a plain web server lists no folders."""
        names = sorted(n for n in self._manifest["shards"] if n.rsplit("-", 3)[0] == self._split)
        return [f"{self._root}/data/{name}" for name in names]

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
        """Compares the shards with the hashes that were written with them.

        What lies behind a URL would have to be read whole for that: there it is only asked whether every shard of the split
        is there and ends as Parquet files do.

        Raises:
            UserError: a shard is missing or was changed.
        """
        if not _is_local(self._fs):
            _ = self._groups
            return
        for name, digest in self._manifest["shards"].items():
            path = Path(self._root) / "data" / name
            if not path.is_file() or _sha256(path) != digest:
                raise UserError(f"{path}: is missing or not what was built; build the data set anew")

    def __len__(self) -> int:
        return self._manifest["counts"][self._split]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._starts, index) - 1
        rows = self._resident.get(number, lambda: self._read_group(number))
        return self._make(rows[index - self._starts[number]])

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
            name = shard.rpartition("/")[2]
            metadata = self._reading(f"data/{name}", lambda shard=shard: _read_metadata(self._fs, shard))
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                groups.append(_Group(shard, number, group.num_rows, group.total_byte_size + group.num_rows * ROW_BYTES))
        found = sum(group.rows for group in groups)
        if found != len(self):
            raise UserError(
                f'{self._where}: found {found:,} examples of "{self._split}", dataset.json says {len(self):,}; '
                "build the data set anew"
            )
        return groups

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(group.rows for group in self._groups)][:-1]

    def _read_group(self, number: int) -> _Rows:
        group = self._groups[number]
        return self._reading(f"data/{group.shard.rpartition('/')[2]}", lambda: _read_row_group(self._fs, group))

    def _reading(self, name: str, action: Callable[[], T]) -> T:
        """Runs `action`, which reads the file `name`; whatever goes wrong becomes a line for the user."""
        try:
            return action()
        except FileNotFoundError as error:
            wanted = " (a data-set folder that editkit build wrote)" if name == "dataset.json" else ""
            raise UserError(f"{self._where}: found no {name}{wanted}; build or upload the data set anew") from error
        except Exception as error:  # every remote file system has errors of its own
            said = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{self._where}: {name} cannot be read ({said}); build or upload the data set anew") from error


@dataclass(frozen=True, slots=True)
class _Group:
    shard: str
    number: int
    rows: int
    nbytes: int  # in memory, about


@dataclass(frozen=True, slots=True)
class _Rows:
    """A row group as Python values, a list a column: converted at once, that takes a third of the time of row by row."""

    columns: dict[str, list[Any]]  # of pictures their bytes
    nbytes: int

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return {name: values[number] for name, values in self.columns.items()}


def _file_system(where: str) -> tuple[Any, str]:
    try:
        fs, root = url_to_fs(where)
    except ValueError as error:
        raise UserError(f'{where}: found an unknown kind of URL; expected one that fsspec knows, such as "s3://..."') from error
    except ImportError as error:
        hint = '; pip install "editkit[http]"' if where.startswith("http") else ""
        raise UserError(f"{where}: needs a package that is missing ({error}){hint}") from error
    return fs, root.rstrip("/")


@contextlib.contextmanager
def _opened(fs: Any, shard: str) -> Generator[pq.ParquetFile, None, None]:
    if _is_local(fs):
        with pq.ParquetFile(shard) as parquet:
            yield parquet
    else:
        with fs.open(shard, "rb") as file, pq.ParquetFile(file) as parquet:
            yield parquet


def _read_metadata(fs: Any, shard: str) -> pq.FileMetaData:
    with _opened(fs, shard) as parquet:
        return parquet.metadata


def _read_row_group(fs: Any, group: _Group) -> _Rows:
    # Threads read several groups at once already; Arrow's own would cost more than they bring.
    with _opened(fs, group.shard) as parquet:
        table = parquet.read_row_group(group.number, use_threads=False)
    columns = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_struct(column.type):
            column = column.flatten()[column.type.get_field_index("bytes")]
        columns[name] = column.to_pylist()
    return _Rows(columns, table.nbytes + table.num_rows * ROW_BYTES)


def _is_local(fs: Any) -> bool:
    return isinstance(fs, LocalFileSystem)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Resident:
    """Row groups in memory, those that were used longest ago dropped first; asked by several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._groups: OrderedDict[int, _Rows] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()
        self._being_read: dict[int, threading.Lock] = {}

    def get(self, number: int, read: Callable[[], _Rows]) -> _Rows:
        """The rows of a group; two threads that want the same one read it once."""
        with self._lock:
            if number in self._groups:
                self._groups.move_to_end(number)
                return self._groups[number]
            turn = self._being_read.setdefault(number, threading.Lock())
        with turn:
            with self._lock:
                if number in self._groups:
                    return self._groups[number]
            rows = read()
            with self._lock:
                # A thread that waited while the group came and was dropped again may read it beside another.
                if number not in self._groups:
                    self._groups[number] = rows
                    self._nbytes += rows.nbytes
                self._being_read.pop(number, None)
                while self._nbytes > self._limit_bytes and len(self._groups) > 1:
                    self._nbytes -= self._groups.popitem(last=False)[1].nbytes
            return rows


def _limited(dataset: Dataset[Any], limit: int) -> Dataset[Any]:
    return Limited(dataset, limit) if limit else dataset


def _picture(data: bytes | None, name: str) -> Picture:
    return Picture(data=data or b"", label=name)


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
        score=row.get("score"),
    )


def _captioned_image(row: Mapping[str, Any]) -> CaptionedImage:
    return CaptionedImage(
        key=row["key"],
        image=_picture(row["image"], row["key"]),
        captions=tuple(row["captions"]),
        facts=json.loads(row["facts"]),
        licence=row["licence"],
    )
