"""Keys and values of the tokens that a sampling has behind it, so that each is computed once.

Rows grow by themselves: of every row the remembered tokens stand without gaps from the first place on, whatever the other rows
have. Axes: B rows, T places, H heads of keys, E numbers of a head; N new tokens in the order of the network's list.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

GROWTH = 64  # places that are added at least


class Cache:
    """The memory of `rows` sequences over all layers.

    Attributes:
        lengths: tokens remembered of each row.
        positions: the rotary position at which each row goes on.
    """

    def __init__(self, layers: int, rows: int) -> None:
        self.lengths = [0] * rows
        self.positions = [0] * rows
        self.layers = [LayerCache() for _ in range(layers)]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def open(self, place_N: torch.Tensor, length: int, *, remember: bool) -> None:
        """Prepares all layers for a pass.

        Args:
            place_N: of the new tokens, row * length + column; a row's tokens stand without gaps from its first column on.
            length: of the new rows.
            remember: keep the new tokens' keys and values.
        """
        row_N = place_N // length
        slot_N = torch.tensor(self.lengths, device=place_N.device)[row_N] + place_N % length
        for layer in self.layers:
            layer.open(self.longest, len(self.lengths), (row_N, slot_N) if remember else None, self.longest + length)

    def advance(self, added: Sequence[int], positions: Sequence[int]) -> None:
        """After a pass that was remembered.

        Args:
            added: new tokens of each row.
            positions: at which each goes on.
        """
        self.lengths = [a + b for a, b in zip(self.lengths, added, strict=True)]
        self.positions = list(positions)


class LayerCache:
    """The memory of one layer."""

    def __init__(self) -> None:
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None
        self._longest = 0
        self._needed = 0
        self._rows = 0
        self._slots: tuple[torch.Tensor, torch.Tensor] | None = None

    def open(self, longest: int, rows: int, slots: tuple[torch.Tensor, torch.Tensor] | None, needed: int) -> None:
        """Prepares one pass; see `Cache.open`."""
        self._longest, self._rows, self._slots, self._needed = longest, rows, slots, needed

    def with_new(
        self, k_BLHE: torch.Tensor, v_BLHE: torch.Tensor, k_NHE: torch.Tensor, v_NHE: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the remembered places with the new ones behind them, (B, T + L, H, E); keeps the new if asked.

        Args:
            k_BLHE, v_BLHE: of the new tokens, in rows.
            k_NHE, v_NHE: the same, as a list.
        """
        found = k_BLHE, v_BLHE
        if self._keys is not None and self._values is not None and self._longest:
            old = self._keys[:, : self._longest], self._values[:, : self._longest]
            found = torch.cat([old[0], k_BLHE], dim=1), torch.cat([old[1], v_BLHE], dim=1)
        if self._slots is not None:
            self._keys, self._values = (self._kept(x, new) for x, new in ((self._keys, k_NHE), (self._values, v_NHE)))
        return found

    def _kept(self, kept: torch.Tensor | None, new_NHE: torch.Tensor) -> torch.Tensor:
        assert self._slots is not None
        if kept is None or kept.shape[1] < self._needed:
            more = self._needed if kept is None else max(self._needed, kept.shape[1] + max(GROWTH, kept.shape[1] // 2))
            # Zeros: what no row has reached yet is multiplied with a weight of 0, and 0 times what lay there may be no number.
            wider = new_NHE.new_zeros(self._rows, more, *new_NHE.shape[1:])
            if kept is not None:
                wider[:, : kept.shape[1]] = kept
            kept = wider
        kept[self._slots] = new_NHE
        return kept
