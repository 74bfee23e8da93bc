"""What a family of networks gives to the methods: a contract, checked by one test over every family."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from torch import nn

from editkit.recipe.schema import Section


class Parts(Protocol):
    """The networks of one model, by name, with what they need around them."""

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Every network by the name of its folder in the stock layout ("vae", "unet" ...)."""
        ...

    @property
    def base(self) -> str:
        """What the weights came from, for run.json and the card."""
        ...

    def save(self, folder: Path) -> None:
        """Writes the stock layout, so that the stock library loads it with no line of ours."""
        ...


class FamilyModule(Protocol):
    """The module `editkit.models.<family>.load`."""

    Options: type[Section]

    @staticmethod
    def load(base: str, options: Section, texts: Callable[[], Iterable[str]] | None = None, *, weights: bool = True) -> Parts:
        """Loads `base`; a part that `options` configures is made anew with random weights instead.

        `texts` gives the training texts, for a tokenizer that is to be trained. Without `weights` the networks are made from
        the base's configurations alone, so that what they will take can be known before anything large is read; a few texts
        are then enough.
        """
        ...
