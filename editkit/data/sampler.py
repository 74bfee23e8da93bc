"""The order in which training sees the examples: a pure function of the seed and how many were seen.

Nothing has to be saved to go on after a stop, and the order does not change when the batch size does.
"""

from __future__ import annotations

import torch


class ShuffledStream:
    """An endless stream of example indices, reshuffled every epoch; no example is dropped at an epoch's end."""

    def __init__(self, num_examples: int, seed: int) -> None:
        if num_examples <= 0:
            raise ValueError(f"a stream needs examples, got {num_examples}")
        self._num_examples = num_examples
        self._seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def take(self, position: int, count: int) -> list[int]:
        """The indices at `position` … `position + count - 1`, where position counts examples since the start."""
        return [self._at(p) for p in range(position, position + count)]

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self._num_examples)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
            self._order = torch.randperm(self._num_examples, generator=generator)
            self._epoch = epoch
        return int(self._order[offset])
