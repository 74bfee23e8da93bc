"""The order in which training sees the examples, and how they come together in batches.

The order is a pure function of the seed and of how many were seen. A plan cuts it into batches of examples that share a bucket
(a size in pixels); what waits in a bucket that is not full yet goes on waiting over an epoch's end, so that no example is left
out and every batch is full.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

BLOCK = 1000  # examples within which a mixture has its shares


class Stream(Protocol):
    """An endless order of example indices."""

    def at(self, position: int) -> int:
        """The index of the example at a position, where positions count examples since the start."""
        ...


class ShuffledStream:
    """Every example once an epoch, in an order that is new in every epoch.

    Args:
        num_examples: how many there are.
        seed: of the order.
        groups: sizes of neighbouring examples that lie together on disk (row groups); () = one.
        window: groups that are shuffled together, so that so many have to be in memory; 0 = all.
    """

    def __init__(self, num_examples: int, seed: int, groups: Sequence[int] = (), window: int = 0) -> None:
        if num_examples <= 0:
            raise ValueError(f"a stream needs examples, got {num_examples}")
        if groups and sum(groups) != num_examples:
            raise ValueError(f"groups of {sum(groups)} examples in all, expected {num_examples}")
        self._num_examples = num_examples
        self._seed = seed
        self._groups = list(groups) if window and len(groups) > window else []
        self._window = window
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def at(self, position: int) -> int:
        epoch, offset = divmod(position, self._num_examples)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._order = self._windows(generator) if self._groups else torch.randperm(self._num_examples, generator=generator)
            self._epoch = epoch
        return int(self._order[offset])

    def _windows(self, generator: torch.Generator) -> torch.Tensor:
        """Groups in a new order; so many neighbours in that order are mixed, then the next so many."""
        ends = torch.tensor(self._groups).cumsum(0).tolist()
        order = torch.randperm(len(self._groups), generator=generator).tolist()
        parts = []
        for first in range(0, len(order), self._window):
            rows = torch.cat([torch.arange(ends[g] - self._groups[g], ends[g]) for g in order[first : first + self._window]])
            parts.append(rows[torch.randperm(len(rows), generator=generator)])
        return torch.cat(parts)


class MixedStream:
    """Several streams in fixed shares: every block of 1,000 examples has them, in an order of its own.

    Args:
        streams: one a data set; their indices are counted on from one to the next.
        sizes: examples of each.
        weights: shares, any positive numbers.
        seed: of the order within the blocks.
    """

    def __init__(self, streams: Sequence[Stream], sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self._streams = list(streams)
        self._starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self._counts = shares_of(weights, BLOCK)
        self._seed = seed
        self._block = -1
        self._choice: list[int] = []
        self._rank: list[int] = []

    def at(self, position: int) -> int:
        block, offset = divmod(position, BLOCK)
        if block != self._block:
            self._draw(block)
        which = self._choice[offset]
        return self._starts[which] + self._streams[which].at(block * self._counts[which] + self._rank[offset])

    def _draw(self, block: int) -> None:
        generator = torch.Generator().manual_seed(self._seed * 1_000_033 + block)
        choices = torch.repeat_interleave(torch.arange(len(self._counts)), torch.tensor(self._counts))
        self._choice = choices[torch.randperm(BLOCK, generator=generator)].tolist()
        seen = [0] * len(self._counts)
        self._rank = []
        for which in self._choice:
            self._rank.append(seen[which])
            seen[which] += 1
        self._block = block


def shares_of(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in the proportion of `weights` whose sum is `total` (largest remainder); each is at least 1."""
    exact = [max(1.0, w * total / sum(weights)) for w in weights]
    counts = [int(x) for x in exact]
    order = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in order[: max(0, total - sum(counts))]:
        counts[i] += 1
    counts[counts.index(max(counts))] += total - sum(counts)
    return counts


@dataclass(frozen=True, slots=True)
class Planned:
    """One batch of the plan.

    Attributes:
        bucket: which size its pictures have.
        rows: example indices.
        positions: of the examples in the stream, on which their random draws depend.
    """

    bucket: int
    rows: tuple[int, ...]
    positions: tuple[int, ...]


class BatchPlan:
    """Full batches of one bucket each, in the order in which they fill.

    Args:
        stream: the order of the examples.
        bucket_of: the bucket of every example; None = all in bucket 0.
        batch_sizes: examples a batch, for every bucket.
    """

    def __init__(self, stream: Stream, bucket_of: Sequence[int] | None, batch_sizes: Sequence[int]) -> None:
        self._stream = stream
        self._bucket_of = bucket_of
        self._batch_sizes = list(batch_sizes)
        self._position = 0
        self._waiting: dict[int, list[tuple[int, int]]] = {}

    def next(self) -> Planned:
        """The next batch."""
        while True:
            row = self._stream.at(self._position)
            bucket = self._bucket_of[row] if self._bucket_of is not None else 0
            waiting = self._waiting.setdefault(bucket, [])
            waiting.append((row, self._position))
            self._position += 1
            if len(waiting) == self._batch_sizes[bucket]:
                rows, positions = zip(*self._waiting.pop(bucket), strict=True)
                return Planned(bucket, rows, positions)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self._position, "waiting": {str(b): list(w) for b, w in self._waiting.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._position = state["position"]
        self._waiting = {int(b): [(row, at) for row, at in w] for b, w in state["waiting"].items()}
