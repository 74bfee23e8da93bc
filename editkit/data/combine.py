"""Data sets made of others: several one behind the other, or the first examples of one."""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from editkit.data.examples import Dataset


class Concatenated:
    """Several data sets, one behind the other."""

    def __init__(self, datasets: Sequence[Dataset[Any]]) -> None:
        self.parts = list(datasets)
        self._ends = list(itertools.accumulate(len(d) for d in datasets))
        infos = [d.info for d in datasets]
        self._info = {
            "name": " + ".join(info["name"] for info in infos),
            "kind": " + ".join(dict.fromkeys(info["kind"] for info in infos)),
            "sha256": hashlib.sha256("".join(info["sha256"] for info in infos).encode()).hexdigest(),
            "counts": _summed([info["counts"] for info in infos]),
            "licences": _joined_licences([info.get("licences", {}) for info in infos]),
            "categories": _joined_categories([info.get("categories", {}) for info in infos]),
        }

    @property
    def info(self) -> Mapping[str, Any]:
        """What is true of all of them together: counts, licences and categories added up."""
        return self._info

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect.bisect_right(self._ends, index)
        return self.parts[which][index - (self._ends[which - 1] if which else 0)]


def _summed(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for name, count in ((n, c) for part in parts for n, c in part.items()):
        total[name] = total.get(name, 0) + count
    return total


def _joined_categories(parts: Sequence[Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    return {split: _summed([part.get(split, {}) for part in parts]) for split in _summed([dict.fromkeys(p, 0) for p in parts])}


def _joined_licences(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    counts = _summed([{name: said["count"] for name, said in part.items()} for part in parts])
    credits = {name: [part[name]["credit"] for part in parts if name in part and part[name]["credit"]] for name in counts}
    return {name: {"count": counts[name], "credit": "; ".join(dict.fromkeys(credits[name]))} for name in counts}


class Limited:
    """The first examples of a data set."""

    def __init__(self, dataset: Dataset[Any], count: int) -> None:
        self._dataset = dataset
        self._count = min(count, len(dataset))

    @property
    def info(self) -> Mapping[str, Any]:
        return self._dataset.info

    @property
    def group_sizes(self) -> list[int]:
        """Those row groups, or parts of them, that hold the first examples; [] where there are none."""
        starts = itertools.accumulate(getattr(self._dataset, "group_sizes", []), initial=0)
        return [min(b, self._count) - a for a, b in itertools.pairwise(starts) if a < self._count]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._dataset[index]
