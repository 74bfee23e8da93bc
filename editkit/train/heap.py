"""What the C library keeps of freed memory: glibc's malloc, replayed over the sizes that a training asks for.

As `editkit.train.memory.keep_freed_memory` sets it, blocks below a gigabyte lie in one heap: the best-fitting hole is taken,
neighbouring holes become one, and the heap never shrinks by less. Larger blocks are mapped one by one. Thread arenas are left
out: the tensors of a step are made and freed by the main thread.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from editkit.train.memory import KEPT_BYTES

HEADER, ALIGNMENT = 80, 64  # of a block that is aligned for vector instructions


class Heap:
    """Resident bytes under allocations and releases."""

    def __init__(self) -> None:
        self.peak = 0
        self._top = 0
        self._mapped = 0
        self._blocks: dict[object, tuple[int, int]] = {}  # name -> (start, size); start -1 = mapped
        self._holes: list[tuple[int, int]] = []  # (size, start), sorted
        self._starts: dict[int, int] = {}  # of holes: start -> size
        self._ends: dict[int, int] = {}  # of holes: end -> start

    @property
    def resident(self) -> int:
        """Bytes that the process holds now."""
        return self._top + self._mapped

    def allocate(self, name: object, nbytes: int) -> None:
        """A block of `nbytes`, under a name of its own."""
        size = -(-(nbytes + HEADER) // ALIGNMENT) * ALIGNMENT
        if size >= KEPT_BYTES:
            self._mapped += size
            self._blocks[name] = (-1, size)
        else:
            self._blocks[name] = (self._place(size), size)
        self.peak = max(self.peak, self.resident)

    def _place(self, size: int) -> int:
        at = bisect.bisect_left(self._holes, (size, -1))
        if at < len(self._holes):
            found, start = self._holes[at]
            self._forget(start)
            if found > size:
                self._remember(start + size, found - size)
            return start
        start = self._ends.get(self._top, self._top)  # a hole at the top grows into the block
        if start < self._top:
            self._forget(start)
        self._top = start + size
        return start

    def release(self, name: object) -> None:
        """Frees the block of that name."""
        start, size = self._blocks.pop(name)
        if start < 0:
            self._mapped -= size
            return
        if start in self._ends:
            before = self._ends[start]
            start, size = before, size + self._starts[before]
            self._forget(before)
        if start + size in self._starts:
            after = start + size
            size += self._starts[after]
            self._forget(after)
        if start + size == self._top and size > KEPT_BYTES:
            self._top = start
            return
        self._remember(start, size)

    def replay(self, events: Iterable[tuple[object, int]]) -> None:
        """Allocations (name, bytes) and releases (name, -bytes), in their order; what is left at the end is released."""
        alive: dict[object, None] = {}
        for name, nbytes in events:
            if nbytes >= 0:
                self.allocate(name, nbytes)
                alive[name] = None
            else:
                self.release(name)
                del alive[name]
        for name in alive:
            self.release(name)

    def _remember(self, start: int, size: int) -> None:
        bisect.insort(self._holes, (size, start))
        self._starts[start] = size
        self._ends[start + size] = start

    def _forget(self, start: int) -> None:
        size = self._starts.pop(start)
        del self._ends[start + size]
        del self._holes[bisect.bisect_left(self._holes, (size, start))]
