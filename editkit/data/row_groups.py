"""Parquet files a row group at a time, on the local disk or behind any URL that fsspec knows, in bounded memory."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from editkit.errors import UserError

RESIDENT_BYTES = 4 * 2**30  # of a data set's row groups in memory
ROW_BYTES = 1024  # of an example in memory beside what Arrow counts: a Python object for every value


@dataclass(frozen=True, slots=True)
class Group:
    """One row group of a file."""

    shard: str
    number: int
    rows: int
    nbytes: int  # in memory, about


@dataclass(frozen=True, slots=True)
class Rows:
    """A row group as Python values, a list a column: converted at once, that takes a third of the time of row by row."""

    columns: dict[str, list[Any]]
    nbytes: int

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return {name: values[number] for name, values in self.columns.items()}


def file_system(where: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        UserError: nobody knows such URLs, or a package is missing.
    """
    try:
        fs, root = url_to_fs(where)
    except ValueError as error:
        raise UserError(f'{where}: found an unknown kind of URL; expected one that fsspec knows, such as "s3://..."') from error
    except ImportError as error:
        hint = '; pip install "editkit[http]"' if where.startswith("http") else ""
        raise UserError(f"{where}: needs a package that is missing ({error}){hint}") from error
    return fs, root.rstrip("/")


def is_local(fs: Any) -> bool:
    """Whether files lie on a disk of this machine."""
    return isinstance(fs, LocalFileSystem)


@contextlib.contextmanager
def opened(fs: Any, shard: str) -> Generator[pq.ParquetFile, None, None]:
    """A Parquet file, open."""
    if is_local(fs):
        with pq.ParquetFile(shard) as parquet:
            yield parquet
    else:
        with fs.open(shard, "rb") as file, pq.ParquetFile(file) as parquet:
            yield parquet


def read_metadata(fs: Any, shard: str) -> pq.FileMetaData:
    """What the end of a Parquet file says of it."""
    with opened(fs, shard) as parquet:
        return parquet.metadata


def groups_of(shard: str, metadata: pq.FileMetaData) -> list[Group]:
    """The row groups of a file."""
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        found.append(Group(shard, number, group.num_rows, group.total_byte_size + group.num_rows * ROW_BYTES))
    return found


def read_columns(fs: Any, shard: str, names: Sequence[str]) -> pa.Table:
    """Those columns of a file that it has."""
    with opened(fs, shard) as parquet:
        return parquet.read([name for name in names if name in parquet.schema_arrow.names])


def read_row_group(fs: Any, group: Group, columns: Sequence[str] | None = None, *, pictures: bool = True) -> Rows:
    """Reads a row group.

    Args:
        fs: where it lies.
        group: which.
        columns: only these; None = all.
        pictures: make bytes of the structs that hold pictures.
    """
    # Threads read several groups at once already; Arrow's own would cost more than they bring.
    with opened(fs, group.shard) as parquet:
        table = parquet.read_row_group(group.number, columns=None if columns is None else list(columns), use_threads=False)
    values = {}
    for name in table.column_names:
        column = table.column(name)
        if pictures and pa.types.is_struct(column.type):
            column = column.flatten()[column.type.get_field_index("bytes")]
        values[name] = column.to_pylist()
    return Rows(values, table.nbytes + table.num_rows * ROW_BYTES)


class Resident:
    """Row groups in memory, those that were used longest ago dropped first; asked by several threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._groups: OrderedDict[int, Rows] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()
        self._being_read: dict[int, threading.Lock] = {}

    def get(self, number: int, read: Callable[[], Rows]) -> Rows:
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


class ParquetRows(Sequence[Mapping[str, Any]]):
    """Rows of other people's Parquet files, read when asked for; of pictures their bytes, not decoded.

    Args:
        fs: the file system.
        files: the files, in order.
        name: what messages call them.
    """

    def __init__(self, fs: Any, files: Sequence[str], name: str) -> None:
        self._fs, self._files, self._name = fs, list(files), name
        self._only: list[str] | None = None
        self._resident = Resident(RESIDENT_BYTES)

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return self._metadata[0].schema.to_arrow_schema().names

    @property
    def is_remote(self) -> bool:
        """Whether they lie behind a URL."""
        return not is_local(self._fs)

    @property
    def files(self) -> list[str]:
        """Where the rows come from."""
        return list(self._files)

    def only(self, columns: Sequence[str]) -> None:
        """From now on, reads these columns alone."""
        self._only = list(columns)
        self._resident = Resident(RESIDENT_BYTES)

    def __len__(self) -> int:
        return sum(self.group_sizes)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._starts, index) - 1
        rows = self._resident.get(number, lambda: self._read(self._groups[number], self._only))
        return rows[index - self._starts[number]]

    def scan(self, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """All rows in order, with these columns alone; nothing is kept."""
        for group in self._groups:
            rows = self._read(group, columns)
            for number in range(group.rows):
                yield rows[number]

    @property
    def group_sizes(self) -> list[int]:
        """Rows of each row group."""
        return [group.rows for group in self._groups]

    @property
    def group_bytes(self) -> list[int]:
        """Bytes of each row group in memory, about."""
        return [group.nbytes for group in self._groups]

    def fingerprint(self) -> str:
        """What tells these files from others, without reading those that are far away."""
        facts = []
        for file in self._files:
            info = self._reading(lambda file=file: self._fs.info(file))
            marks = ("size", "blob_id", "lfs", "etag", "ETag", "checksum", "mtime", "LastModified", "created")
            facts.append((file, [str(info[m]) for m in marks if info.get(m) is not None]))
        return repr(facts)

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens the files itself."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_resident", "_groups", "_starts", "_metadata")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_resident": Resident(RESIDENT_BYTES)}

    @cached_property
    def _metadata(self) -> list[pq.FileMetaData]:
        return [self._reading(lambda file=file: read_metadata(self._fs, file)) for file in self._files]

    @cached_property
    def _groups(self) -> list[Group]:
        return [g for file, metadata in zip(self._files, self._metadata, strict=True) for g in groups_of(file, metadata)]

    @cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate((g.rows for g in self._groups), initial=0))[:-1]

    def _read(self, group: Group, columns: Sequence[str] | None) -> Rows:
        return self._reading(lambda: read_row_group(self._fs, group, columns, pictures=False))

    def _reading(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # every remote file system has errors of its own
            said = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{self._name}: cannot be read ({said}); is it whole, and is the network there?") from error
