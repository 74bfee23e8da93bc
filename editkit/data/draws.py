"""Random numbers of a batch: a stream of its own for every example.

What an example draws depends on the recipe's seed and on its position in the stream of examples, and on nothing else: not on
the batch it stands in, on how many passes a step has, or on how many processes share the work. So a resumed run, a run with
another micro-batch size and a run on several devices all draw the same noise for the same example. Philox is counter-based: a
key makes a stream, and streams of different keys are independent (Salmon et al. 2011, "Parallel random numbers: as easy as 1,
2, 3").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

LOSS, VIEW, CACHED_VIEW = 0, 1, 2  # what the numbers are for; each purpose has streams of its own


class Draws:
    """The streams of the examples of one batch; every call goes on where the last one stopped.

    Args:
        seed: of the recipe.
        positions: of the examples in the stream, one each.
        purpose: LOSS, VIEW or CACHED_VIEW.
    """

    def __init__(self, seed: int, positions: Sequence[int], purpose: int = LOSS) -> None:
        word = (seed * 4 + purpose) % 2**64
        keys = [np.array([word, position], dtype=np.uint64) for position in positions]
        self._streams = [np.random.Generator(np.random.Philox(key=key)) for key in keys]

    def __len__(self) -> int:
        return len(self._streams)

    def normal(self, like_BX: torch.Tensor) -> torch.Tensor:
        """Standard normal numbers in the shape of a tensor, example by example, on its device and in its type."""
        shape = tuple(like_BX.shape[1:])
        made = np.stack([s.standard_normal(shape, dtype=np.float32) for s in self._streams])
        return torch.from_numpy(made).to(like_BX)

    def uniform(self, *shape: int) -> torch.Tensor:
        """Float32 numbers in [0, 1), (batch, *shape), on the CPU."""
        return torch.from_numpy(np.stack([np.asarray(s.random(shape, dtype=np.float32)) for s in self._streams]))

    def integers(self, high: int) -> torch.Tensor:
        """One whole number in [0, high) an example, int64, on the CPU."""
        return torch.tensor([int(s.integers(high)) for s in self._streams])


def picture_seed(seed: int, number: int) -> int:
    """The seed of one picture of a series, so that it does not depend on how the series is cut into batches.

    Args:
        seed: of the whole series.
        number: of the picture in it, from 0.
    """
    return seed * 1_000_003 + number
