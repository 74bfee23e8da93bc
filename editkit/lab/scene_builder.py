"""The scenes world as a builder of data sets: `builder = "scenes"` in a data spec."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from editkit.data.examples import Example
from editkit.errors import UserError
from editkit.lab.scene_art import CREDITS
from editkit.lab.scene_edits import captioned_image, edit_pair
from editkit.lab.scene_prompts import TAGS, Tag
from editkit.recipe.schema import NonNegativeInt, Section


class SceneBuilder:
    """Makes captioned scenes or edit pairs; holds options only, so that any process can make any example."""

    class Options(Section):
        """The keys of `[build]` behind `builder`."""

        train: NonNegativeInt  # examples of the "train" split
        test: NonNegativeInt  # of the "test" split, whose scene graphs, half of its compositions and phrasings are new
        size: Literal[32, 64] = 64  # px, the side of the square pictures
        seed: int = 0
        tags: Annotated[list[Tag], Field(min_length=1)] = list(TAGS)  # categories of captioned pictures, in equal numbers

    def __init__(self, kind: str, options: Options) -> None:
        if kind == "edit_pairs" and set(options.tags) != set(TAGS):
            raise UserError(f"[build] tags: found {options.tags} with edit_pairs, which have none; leave the key out")
        self._make = edit_pair if kind == "edit_pairs" else partial(captioned_image, tags=options.tags)
        self._options = options

    def counts(self) -> Mapping[str, int]:
        return {"train": self._options.train, "test": self._options.test}

    def make(self, split: str, index: int) -> Example:
        return self._make(self._options.seed, split, index, self._options.size)

    def credits(self) -> Mapping[str, str]:
        return CREDITS
