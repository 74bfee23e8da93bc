"""Looking through a data set of any size: what can be asked of all examples is kept as small columns, pictures are not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from editkit.data.decisions import Decisions
from editkit.data.doctor.findings import Finding, findings_of, read_findings
from editkit.data.examples import Dataset, EditPair
from editkit.data.read import ParquetDataset

ALL = "all"
STATES = (ALL, "undecided", "accepted", "rejected", "rewritten")
NO_FINDING, ANY_FINDING = "none", "any"
FEW = 20_000  # examples of other people's data that are looked through one by one

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which examples of a split are shown, and in which order.

    Attributes:
        category: a kind of edit, or `ALL`.
        finding: a kind of finding, `ANY_FINDING`, `NO_FINDING` or `ALL`.
        state: one of `STATES`.
        score: by which they are ordered; "" = as they lie.
        highest_first: the order of the scores.
    """

    category: str = ALL
    finding: str = ALL
    state: str = ALL
    score: str = ""
    highest_first: bool = False


class Shelf:
    """One split with what is known of its examples.

    Args:
        dataset: edit pairs.
        split: its name.
        decisions: the log.
        findings: where the last check left what it found; None = where `editkit check` does.
    """

    def __init__(self, dataset: Dataset[Any], split: str, decisions: Decisions, findings: Path | None = None) -> None:
        self.dataset, self.split, self.decisions = dataset, split, decisions
        keys, categories, scores = _columns(dataset)
        self.known = keys is not None  # whether examples can be chosen by what is known of them
        self.categories, self._category = _coded(categories)
        self.scores = scores
        self._place = {key: number for number, key in enumerate(keys or ())}
        path = findings or findings_of(dataset.info["name"])
        self.findings: dict[int, list[Finding]] = {}
        found = read_findings(path, split, str(dataset.info.get("sha256", "")))
        self.was_checked = found is not None
        for finding in found or ():
            if finding.index >= 0:
                self.findings.setdefault(finding.index, []).append(finding)

    @property
    def finding_kinds(self) -> list[str]:
        """What was found in this split, the most frequent first."""
        counts: dict[str, int] = {}
        for found in self.findings.values():
            for kind in {f.kind for f in found}:
                counts[kind] = counts.get(kind, 0) + 1
        return sorted(counts, key=lambda kind: (-counts[kind], kind))

    def find(self, wanted: Wanted) -> Numbers:
        """Numbers of the examples that are wanted, in their order."""
        chosen = np.ones(len(self.dataset), bool)
        if wanted.category != ALL:
            chosen &= self._category == self.categories.index(wanted.category)
        if wanted.finding != ALL:
            with_it = [i for i, found in self.findings.items() if wanted.finding in (ANY_FINDING, *(f.kind for f in found))]
            if wanted.finding == NO_FINDING:
                chosen[list(self.findings)] = False
            else:
                chosen &= self._these(with_it)
        if wanted.state != ALL:
            decided = {at: d for at, d in self.decisions.all().items() if at[0] == self.split and at[1] in self._place}
            kept = {
                "undecided": lambda d: True,
                "rewritten": lambda d: bool(d.instruction),
            }.get(wanted.state, lambda d: d.verdict == wanted.state)
            some = self._these([self._place[key] for (_, key), d in decided.items() if kept(d)])
            chosen &= ~some if wanted.state == "undecided" else some
        numbers = np.flatnonzero(chosen)
        if wanted.score:
            values = self.scores[wanted.score][numbers]
            numbers = numbers[np.argsort(-values if wanted.highest_first else values, kind="stable")]
            numbers = numbers[~np.isnan(self.scores[wanted.score][numbers])]
        return numbers

    def number_of(self, asked: str) -> int | None:
        """Of an example by its key, or by its number from 1; None where there is no such one."""
        asked = asked.strip()
        if asked in self._place:
            return self._place[asked]
        return int(asked) - 1 if asked.isdecimal() and 0 < int(asked) <= len(self.dataset) else None

    def _these(self, numbers: Iterable[int]) -> npt.NDArray[np.bool_]:
        mask = np.zeros(len(self.dataset), bool)
        mask[list(numbers)] = True
        return mask


def _columns(dataset: Dataset[Any]) -> tuple[list[str] | None, Sequence[str], dict[str, npt.NDArray[np.float32]]]:
    """Keys, categories and scores of all examples; None instead of keys where they would have to be read one by one."""
    if isinstance(dataset, ParquetDataset):
        found = dataset.columns("key", "category", "provenance")
        said = [json.loads(text).get("scores", {}) for text in found.get("provenance", [])]
        return found["key"], found["category"], _by_name(said)
    if len(dataset) > FEW:
        return None, [""] * len(dataset), {}
    pairs: list[EditPair] = [dataset[i] for i in range(len(dataset))]
    return [p.key for p in pairs], [p.category for p in pairs], _by_name([p.scores for p in pairs])


def _by_name(scores: Sequence[Any]) -> dict[str, npt.NDArray[np.float32]]:
    names = sorted({name for one in scores for name in one})
    return {n: np.array([one.get(n, np.nan) for one in scores], np.float32) for n in names}


def _coded(values: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int32]]:
    names = sorted(set(values))
    numbers = {name: i for i, name in enumerate(names)}
    return names, np.array([numbers[v] for v in values], np.int32)
