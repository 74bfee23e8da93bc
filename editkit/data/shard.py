"""One LMDB file of the cache: what it holds, when each entry was last used, and the checksum that is verified on every read.

LMDB maps the file into memory, lets one process write while others read, and a transaction is there whole or not at all. A
commit flushes the data, not the page that points to it (`metasync=False`): the kill of a process loses nothing that was
committed, a power loss at most the last commit of each file, and neither tears it. Flushing both took twice as long. Flushing
nothing (`sync=False`) would be four times as quick, and a power loss could leave a tree of pages that no checksum of entries
makes safe.
"""

from __future__ import annotations

import contextlib
import functools
import json
import struct
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import lmdb
import numpy as np
import torch
from safetensors.torch import save
from xxhash import xxh3_64_intdigest

from editkit.errors import UserError

Tensors = dict[str, torch.Tensor]
T = TypeVar("T")

FIRST_MAP = 64 * 2**20  # bytes of address space; doubled whenever the file has grown to them
MAX_READERS = 1024  # processes and threads that read at one moment
_HEAD = struct.Struct("<QQ")  # length of the body, checksum of the body
_USE = struct.Struct("<QQ")  # stamp of the last run that used the entry, bytes of the file that it takes
_PREFIX = struct.Struct("<Q")  # of safetensors: the length of its JSON header
_DTYPES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": "u2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


def pack(key: str, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """An entry as it is stored: length and checksum, then the tensors as safetensors."""
    # Cloned, because safetensors refuses tensors that share memory, as the parts of one batch may.
    body = save({k: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for k, t in tensors.items()})
    return _HEAD.pack(len(body), _checksum(key, body)) + body


def unpack(key: str, stored: memoryview) -> Tensors | None:
    """The tensors of an entry, with memory of their own; None where a bit of it is not what was written."""
    if len(stored) < _HEAD.size:
        return None
    length, checksum = _HEAD.unpack_from(stored)
    # The length is compared first: what says how long an entry is may be damaged too, and reading on would leave the map.
    if length != len(stored) - _HEAD.size:
        return None
    body = bytearray(stored[_HEAD.size :])
    return _tensors(body) if _checksum(key, body) == checksum else None


def _tensors(body: bytearray) -> Tensors:
    """What safetensors' own `load` gives, in a quarter of the time for a small entry.

    That reads the header of each, which all entries of a data set have in common; and numpy makes an array from a buffer faster
    than torch makes a tensor.
    """
    start = _PREFIX.size + _PREFIX.unpack_from(body)[0]
    tensors: Tensors = {}
    for name, dtype, shape, offset, bfloat16 in _layout(bytes(body[_PREFIX.size : start])):
        tensor = torch.from_numpy(np.ndarray(shape, dtype, body, start + offset))
        tensors[name] = tensor.view(torch.bfloat16) if bfloat16 else tensor
    return tensors


@functools.lru_cache(maxsize=1024)
def _layout(header: bytes) -> list[tuple[str, np.dtype[Any], tuple[int, ...], int, bool]]:
    """(name, dtype, shape, offset in bytes, is bfloat16, which numpy has not) of each tensor of a safetensors header."""
    return [
        (name, np.dtype(_DTYPES[about["dtype"]]), tuple(about["shape"]), about["data_offsets"][0], about["dtype"] == "BF16")
        for name, about in json.loads(header).items()
    ]


def _checksum(key: str, body: bytes | bytearray) -> int:
    return xxh3_64_intdigest(body, seed=xxh3_64_intdigest(key.encode()))  # the key too: an entry in another's place is damage


class Shard:
    """A part of the entries, those whose keys begin alike.

    Safe to use from several threads. LMDB's handles belong to the process that opened them, so a fork closes its copy.

    Raises:
        UserError: from every method, where the file is damaged, the disk is full or the folder is not writable.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # the map can only grow while this process has no transaction open
        with _explained(path):
            self._environment = lmdb.open(
                str(path), subdir=False, map_size=FIRST_MAP, max_dbs=2, max_readers=MAX_READERS, metasync=False
            )
            self._environment.reader_check()  # a reader that was killed would keep freed pages from being used again
        self._entries, self._uses = self.transaction(
            lambda txn: tuple(self._environment.open_db(name, txn=txn) for name in (b"entries", b"uses")), write=True
        )
        self._page = self._environment.stat()["psize"]

    def transaction(self, work: Callable[[lmdb.Transaction[Any]], T], *, write: bool = False) -> T:
        """Runs `work` in one transaction, and again from its beginning where the map had to grow, here or elsewhere."""
        with self._lock, _explained(self._path):
            while True:
                try:
                    with self._environment.begin(write=write, buffers=True) as txn:
                        return work(txn)
                except lmdb.MapFullError:
                    self._environment.set_mapsize(2 * self._environment.info()["map_size"])
                except lmdb.MapResizedError:
                    self._environment.set_mapsize(0)  # as large as the other process made it

    def before_fork(self) -> None:
        """Waits until no thread has a transaction open: its copy would let go of a lock that is this process's."""
        self._lock.acquire()

    def after_fork(self, child: bool) -> None:
        """Goes on in the parent; closes the copy in the child."""
        if child:
            self._environment.close()
        self._lock.release()

    def sizes(self, keys: Sequence[str]) -> list[int]:
        """Bytes of the file that each entry takes; 0 = it is not there."""

        def look(txn: lmdb.Transaction[memoryview]) -> list[int]:
            found = (txn.get(key.encode(), db=self._uses) for key in keys)
            return [_USE.unpack(use)[1] if use is not None else 0 for use in found]

        return self.transaction(look)

    def get(self, keys: Sequence[str]) -> list[Tensors | Literal["missing", "damaged"]]:
        """The tensors of each entry, or what is the matter with it."""

        def read(txn: lmdb.Transaction[memoryview]) -> list[Tensors | Literal["missing", "damaged"]]:
            found: list[Tensors | Literal["missing", "damaged"]] = []
            for key in keys:
                stored = txn.get(key.encode(), db=self._entries)
                tensors = unpack(key, stored) if stored is not None else None
                found.append(tensors if tensors is not None else "missing" if stored is None else "damaged")
            return found

        return self.transaction(read)

    def put(self, entries: Mapping[str, bytes], stamp: int) -> int:
        """Stores packed entries for the run `stamp`; one that is there stays. Returns how many were new."""

        def write(txn: lmdb.Transaction[memoryview]) -> int:
            new = 0
            for key, entry in entries.items():
                if txn.put(key.encode(), entry, db=self._entries, overwrite=False):
                    txn.put(key.encode(), _USE.pack(stamp, self.room(len(entry))), db=self._uses)
                    new += 1
                else:
                    self._touch(txn, key, stamp)
            return new

        return self.transaction(write, write=True)

    def touch(self, keys: Sequence[str], stamp: int) -> None:
        """Notes that the run `stamp` uses these entries, unless a later run did."""

        def write(txn: lmdb.Transaction[memoryview]) -> None:
            for key in keys:
                self._touch(txn, key, stamp)

        self.transaction(write, write=True)

    def drop_damaged(self, keys: Sequence[str]) -> None:
        """Takes out those entries that are still damaged; another process may have replaced them."""

        def write(txn: lmdb.Transaction[memoryview]) -> None:
            for key in keys:
                stored = txn.get(key.encode(), db=self._entries)
                if stored is not None and unpack(key, stored) is None:
                    self._delete(txn, key)

        self.transaction(write, write=True)

    def evict(self, used: Mapping[str, int]) -> None:
        """Takes out entries by key, unless a later run than the given one has used them since."""

        def write(txn: lmdb.Transaction[memoryview]) -> None:
            for key, stamp in used.items():
                use = txn.get(key.encode(), db=self._uses)
                if use is not None and _USE.unpack(use)[0] == stamp:
                    self._delete(txn, key)

        self.transaction(write, write=True)

    def uses(self) -> list[tuple[int, str, int]]:
        """(stamp of the last run that used it, key, bytes) of every entry."""

        def read(txn: lmdb.Transaction[memoryview]) -> list[tuple[int, str, int]]:
            with txn.cursor(db=self._uses) as cursor:
                unpacked = ((bytes(key).decode(), *_USE.unpack(use)) for key, use in cursor)
                return [(stamp, key, size) for key, stamp, size in unpacked]

        return self.transaction(read)

    def size_bytes(self) -> int:
        """Bytes of the pages that entries and their uses take; pages that eviction freed are not counted, and used again."""

        def read(txn: lmdb.Transaction[memoryview]) -> int:
            stats = [txn.stat(db) for db in (self._entries, self._uses)]
            return sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats) * self._page

        return self.transaction(read)

    def room(self, length: int) -> int:
        """Bytes of the file for an entry of that length: whole pages, or a part of one for up to half a page."""
        return length + 64 if length <= self._page // 2 else -(-(length + 16) // self._page) * self._page

    def _touch(self, txn: lmdb.Transaction[memoryview], key: str, stamp: int) -> None:
        use = txn.get(key.encode(), db=self._uses)
        if use is not None:
            before, size = _USE.unpack(use)
            if before < stamp:
                txn.put(key.encode(), _USE.pack(stamp, size), db=self._uses)

    def _delete(self, txn: lmdb.Transaction[memoryview], key: str) -> None:
        txn.delete(key.encode(), db=self._entries)
        txn.delete(key.encode(), db=self._uses)


@contextlib.contextmanager
def _explained(path: Path) -> Generator[None, None, None]:
    """What LMDB says of a file, as a line for the user."""
    try:
        yield
    except (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError) as error:
        raise UserError(f"{path}: is damaged ({error}); delete {path.parent}, what it holds will be computed again") from error
    except lmdb.DiskError as error:
        raise UserError(f"{path}: the disk is full; make room, or name another folder in $EDITKIT_CACHE") from error
    except (lmdb.ReadonlyError, PermissionError) as error:
        raise UserError(f"{path}: cannot be written ({error}); name another folder in $EDITKIT_CACHE") from error
