"""Entries of tensors by key, in a folder that several processes read and fill at the same time."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

import torch
from filelock import FileLock, Timeout

from editkit.data.shard import Shard, Tensors, pack
from editkit.errors import UserError

FORMAT = 1  # of the folder
SHARDS = 4  # files, by the first digit of the key, so that processes which write at the same time seldom wait
MARK, RUNS = "store.json", "runs"
SLACK = 20  # eviction frees a twentieth of the limit at once, because it looks at every entry

_open_shards: WeakValueDictionary[Path, Shard] = WeakValueDictionary()  # LMDB opens a file once in a process
_opening = threading.Lock()
_across_fork: list[Shard] = []


def _before_fork() -> None:
    _opening.acquire()
    _across_fork.extend(_open_shards.values())
    for shard in _across_fork:
        shard.before_fork()


def _after_fork(child: bool) -> None:
    for shard in _across_fork:
        shard.after_fork(child)
    _across_fork.clear()
    if child:
        _open_shards.clear()
    _opening.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=functools.partial(_after_fork, child=False),
        after_in_child=functools.partial(_after_fork, child=True),
    )


class Store:
    """Entries of tensors by key, in a few LMDB files.

    What `put` has stored survives the end of the process, however it ends; a power loss may cost the last commit of each file
    (see `editkit.data.shard`). Threads may share a store, a fork goes on with it, and pickling it passes the folder on.

    Every opening is a run. When the limit is passed, the entries of the least recently used runs go first, but none that was
    used since the oldest run began that is still open, in any process. What eviction frees is used again, so that the files
    stay under twice the limit (measured: 1.2 to 1.8 times), but they never shrink; deleting the folder gives the disk back.

    Args:
        folder: where, on a local disk; made when it is missing or empty.
        limit_bytes: how much the entries may take, in whole pages of the files.

    Raises:
        UserError: the folder is of a newer version, holds something else, is damaged or cannot be written.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self.folder = folder.absolute()
        self.limit_bytes = limit_bytes
        _make_or_check(self.folder)
        self._shards = self._open()
        self._pid = os.getpid()
        self._touched: set[str] = set()
        # Who enters or leaves the list of runs, or reads it, holds the write lock of the first file.
        self._stamp, self._alive = self._shards[0].transaction(lambda _: self._begin_run(), write=True)

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Path]]:
        return functools.partial(Store, limit_bytes=self.limit_bytes), (self.folder,)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the run; its entries may be evicted from now on."""
        if self._alive.is_locked:  # not in a fork, which belongs to the run of its parent
            self._shards[0].transaction(lambda _: self._end_run(), write=True)
        self._shards = []

    def get(self, keys: Sequence[str]) -> list[Tensors | None]:
        """The tensors of each entry, on the CPU, with memory of their own; None where it is missing.

        The checksum is verified every time; entries that are damaged are said, taken out and missing.
        """
        found: list[Tensors | None] = [None] * len(keys)
        damaged: list[str] = []
        for shard, rows in self._by_shard(keys):
            for row, entry in zip(rows, shard.get([keys[row] for row in rows]), strict=True):
                if not isinstance(entry, str):
                    found[row] = entry
                elif entry == "damaged":
                    damaged.append(keys[row])
        if damaged:
            print(f"{self.folder}: {len(damaged)} damaged entries are dropped (checksum; the first is {damaged[0]})")
            for shard, rows in self._by_shard(damaged):
                shard.drop_damaged([damaged[row] for row in rows])
            self._touched.difference_update(damaged)
        self._touch([key for key, entry in zip(keys, found, strict=True) if entry is not None])
        return found

    def put(self, entries: Mapping[str, Mapping[str, torch.Tensor]]) -> int:
        """Stores entries, in one transaction for each file that they go to; an entry that is there already stays as it is.

        Returns:
            How many were not there before.

        Raises:
            UserError: they do not fit, because what this and other open runs use fills the limit. Nothing is evicted then.
        """
        packed = {key: pack(key, tensors) for key, tensors in entries.items()}
        keys = list(packed)
        self._make_room(sum(self._opened()[0].room(len(entry)) for entry in packed.values()))
        new = 0
        for shard, rows in self._by_shard(keys):
            new += shard.put({keys[row]: packed[keys[row]] for row in rows}, self._stamp)
        self._touched.update(keys)
        self._make_room(0)  # the tree above the entries has grown too
        return new

    def sizes(self, keys: Sequence[str]) -> list[int]:
        """Bytes of disk that each entry takes; 0 = it is missing. Looking counts as use."""
        sizes = [0] * len(keys)
        for shard, rows in self._by_shard(keys):
            for row, size in zip(rows, shard.sizes([keys[row] for row in rows]), strict=True):
                sizes[row] = size
        self._touch([key for key, size in zip(keys, sizes, strict=True) if size])
        return sizes

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Indices of the keys that have no entry. Those that have one are not evicted while this run lives."""
        return [row for row, size in enumerate(self.sizes(keys)) if not size]

    def size_bytes(self) -> int:
        """Bytes of disk that all entries take."""
        return sum(shard.size_bytes() for shard in self._opened())

    def _open(self) -> list[Shard]:
        paths = [self.folder / f"{n}.lmdb" for n in range(SHARDS)]
        with _opening:
            # In a list first, because the dictionary alone keeps none alive.
            shards = [_open_shards.get(path) or Shard(path) for path in paths]
            _open_shards.update(zip(paths, shards, strict=True))
        return shards

    def _opened(self) -> list[Shard]:
        if not self._shards:
            raise ValueError(f"{self.folder}: the store is closed")
        if self._pid != os.getpid():
            self._shards = self._open()
            self._pid = os.getpid()
        return self._shards

    def _by_shard(self, keys: Sequence[str]) -> Iterator[tuple[Shard, list[int]]]:
        """Each file that has some of the keys, with their indices."""
        rows: list[list[int]] = [[] for _ in range(SHARDS)]
        for row, key in enumerate(keys):
            rows[int(key[0], 16) % SHARDS].append(row)
        return ((shard, some) for shard, some in zip(self._opened(), rows, strict=True) if some)

    def _touch(self, keys: Sequence[str]) -> None:
        new = [key for key in keys if key not in self._touched]
        for shard, rows in self._by_shard(new):
            shard.touch([new[row] for row in rows], self._stamp)
        self._touched.update(new)

    def _make_room(self, incoming: int) -> None:
        size = self.size_bytes()
        excess = size + incoming - self.limit_bytes
        if excess <= 0:
            return
        oldest = self._opened()[0].transaction(lambda _: self._oldest_run(), write=True)
        unused = sorted((use, shard) for shard in range(SHARDS) for use in self._shards[shard].uses() if use[0] < oldest)
        if sum(use[2] for use, _ in unused) < excess:
            raise UserError(
                f"{self.folder}: is full; {size:,} bytes are used, at least {incoming:,} more are needed, the limit is "
                f"{self.limit_bytes:,}, and the rest is in use by running processes; raise $EDITKIT_CACHE_GB"
            )
        excess += self.limit_bytes // SLACK
        victims: list[dict[str, int]] = [{} for _ in range(SHARDS)]
        for (stamp, key, freed), shard in unused:
            victims[shard][key] = stamp
            excess -= freed
            if excess <= 0:
                break
        for shard, used in zip(self._shards, victims, strict=True):
            shard.evict(used)

    def _begin_run(self) -> tuple[int, FileLock]:
        stamp = time.time_ns()
        lock = FileLock(self.folder / RUNS / f"{stamp}.lock", blocking=False, thread_local=False)
        lock.acquire()
        return stamp, lock

    def _end_run(self) -> None:
        Path(self._alive.lock_file).unlink(missing_ok=True)
        self._alive.release()

    def _oldest_run(self) -> int:
        """The stamp of the oldest run whose process lives; forgets those that are over."""
        living = [self._stamp]
        for path in (self.folder / RUNS).glob("*.lock"):
            if int(path.stem) == self._stamp:
                continue
            try:
                with FileLock(path, blocking=False):
                    path.unlink(missing_ok=True)
            except Timeout:
                living.append(int(path.stem))
        return min(living)


def _make_or_check(folder: Path) -> None:
    """A store of a format that we know at `folder`, whoever made it."""
    mark = folder / MARK
    try:
        if not mark.is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".store-", suffix=".staging", dir=folder.parent))
            (staging / RUNS).mkdir()
            (staging / MARK).write_text(json.dumps({"format": FORMAT}), encoding="utf-8")
            with contextlib.suppress(OSError):
                folder.rmdir()  # succeeds only where it is empty
            # Another process may have been faster, or something else is there.
            with contextlib.suppress(OSError):
                staging.rename(folder)
            shutil.rmtree(staging, ignore_errors=True)
        if not mark.is_file():
            raise UserError(f"{folder}: found files that are no cache of editkit; name another folder in $EDITKIT_CACHE")
        found = json.loads(mark.read_text(encoding="utf-8"))["format"]
    except OSError as error:
        raise UserError(f"{folder}: cannot be used ({error.strerror}); name another folder in $EDITKIT_CACHE") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{mark}: cannot be read; delete {folder}, what it holds will be computed again") from error
    if found > FORMAT:
        raise UserError(f"{folder}: found format {found}; this version knows up to {FORMAT}; update editkit")
