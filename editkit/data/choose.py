"""A part of a data set, or another view of it: examples of some categories, and the last pictures of plan traces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from editkit.data.examples import CaptionedImage, Dataset
from editkit.data.read import open_dataset
from editkit.data.traces import PlanTrace
from editkit.errors import UserError
from editkit.recipe.schema import Data

TRACES = "plan_traces"


def open_chosen(data: Data, where: str, split: str) -> Dataset[Any]:
    """Opens one split of `data.train` or `data.test` as the recipe wants it.

    Args:
        data: of the recipe; of it `limit` counts for training alone, and before anything is left out.
        where: see `editkit.data.read.open_dataset`.
        split: "train" or "test".

    Raises:
        UserError: it is not there, or nothing of it is chosen.
    """
    dataset = open_dataset(where, split, limit=data.limit if split == "train" else 0)
    if data.categories:
        dataset = of_categories(dataset, data.categories, where)
    return last_pictures(dataset, where) if data.last_pictures else dataset


class Chosen:
    """Some examples of a data set, in its order."""

    def __init__(self, dataset: Dataset[Any], numbers: Sequence[int]) -> None:
        self._dataset, self._numbers = dataset, list(numbers)

    @property
    def info(self) -> Mapping[str, Any]:
        """Of the whole data set."""
        return self._dataset.info

    def columns(self, *names: str) -> dict[str, list[Any]]:
        """See `editkit.data.read.ParquetDataset.columns`; {} where the data set cannot be looked over so."""
        found = _columns(self._dataset, names)
        return {name: [values[n] for n in self._numbers] for name, values in found.items()}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._dataset[self._numbers[index]]


class LastPictures:
    """The last pictures of finished plan traces with their prompts, as captioned images.

    Args:
        dataset: of traces, all of which are finished.
    """

    def __init__(self, dataset: Dataset[PlanTrace]) -> None:
        self._dataset = dataset

    @property
    def info(self) -> Mapping[str, Any]:
        """That of the traces, as captioned images."""
        return {**self._dataset.info, "kind": "captioned_images"}

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> CaptionedImage:
        trace = self._dataset[index]
        assert trace.final is not None
        facts = {name: json.dumps(trace.scene[name]) for name in ("graph", "geneval") if name in trace.scene}
        return CaptionedImage(trace.key, trace.final, (trace.prompt,), facts, trace.licence)


def of_categories(dataset: Dataset[Any], categories: Sequence[str], where: str) -> Dataset[Any]:
    """The examples whose category begins with one of these.

    Raises:
        UserError: there are none.
    """
    found = _columns(dataset, ["category"]).get("category")
    if found is None:
        found = [getattr(dataset[n], "category", "") for n in range(len(dataset))]
    numbers = [n for n, name in enumerate(found) if name.startswith(tuple(categories))]
    if not numbers:
        known = ", ".join(sorted(set(found))[:8]) or "none"
        raise UserError(f"{where}: found no example of data.categories = {list(categories)}; its categories are {known}")
    return Chosen(dataset, numbers)


def last_pictures(dataset: Dataset[Any], where: str) -> Dataset[CaptionedImage]:
    """The last pictures of those traces that are finished.

    Raises:
        UserError: it holds no traces, or none that is finished.
    """
    if dataset.info["kind"] != TRACES:
        raise UserError(f"{where}: found {dataset.info['kind']}; data.last_pictures needs {TRACES}")
    finished = _columns(dataset, ["finished"]).get("finished")
    if finished is None:
        finished = [dataset[n].final is not None for n in range(len(dataset))]
    numbers = [n for n, done in enumerate(finished) if done]
    if not numbers:
        raise UserError(f"{where}: found no finished trace; data.last_pictures needs some")
    return LastPictures(Chosen(dataset, numbers))


def _columns(dataset: Dataset[Any], names: Sequence[str]) -> dict[str, list[Any]]:
    """Of all examples, without their pictures; {} where the data set cannot be looked over so."""
    columns = getattr(dataset, "columns", None)
    found = columns(*names) if callable(columns) else {}
    return {name: values[: len(dataset)] for name, values in found.items()}  # of a part that is its beginning, the whole's come
