"""The avatars world as a builder of data sets: `builder = "avatars"` in a data spec."""

from __future__ import annotations

from collections.abc import Mapping

from editkit.data.examples import Example
from editkit.lab.avatar_edits import captioned_image, edit_pair
from editkit.lab.avatars import STYLES
from editkit.lab.credits import by_licence
from editkit.recipe.schema import NonNegativeInt, PositiveInt, Section


class AvatarBuilder:
    """Makes captioned avatars or edit pairs; holds options only, so that any process can make any example."""

    class Options(Section):
        """The keys of `[build]` behind `builder`."""

        train: NonNegativeInt  # examples of the "train" split
        test: NonNegativeInt  # of the "test" split, whose avatars and phrasings training never sees
        size: PositiveInt = 64  # px, the side of the square pictures
        seed: int = 0

    def __init__(self, kind: str, options: Options) -> None:
        self._make = edit_pair if kind == "edit_pairs" else captioned_image
        self._options = options

    def counts(self) -> Mapping[str, int]:
        return {"train": self._options.train, "test": self._options.test}

    def make(self, split: str, index: int) -> Example:
        return self._make(self._options.seed, split, index, self._options.size)

    def credits(self) -> Mapping[str, str]:
        return by_licence((style.licence, style.credit) for style in STYLES.values())
