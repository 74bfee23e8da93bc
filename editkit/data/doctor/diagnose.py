"""The doctor's round: every example once, in several processes, then what only all of them together can tell."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from editkit.data.doctor.alike import Pictures, matches_between, repeats
from editkit.data.doctor.direction import FEWEST, agreements, decided_from
from editkit.data.doctor.exam import Seen, examine
from editkit.data.doctor.findings import Figure, Finding, Findings
from editkit.data.doctor.records import Records
from editkit.data.examples import Dataset, EditPair
from editkit.progress import Bar, progress

CHUNK = 32  # examples that a process examines before it answers
FENCE = 3.0  # quartile ranges below the lower quartile, where a score is far out (Tukey 1977)


@dataclass
class Diagnosis:
    """What the doctor found.

    Attributes:
        splits: errors and warnings of each.
        notes: what is no fault but good to know.
        categories: split -> kind of edit -> examples.
        facts: what was measured on the way, and what could not be known.
    """

    splits: dict[str, Findings]
    notes: list[Finding] = field(default_factory=list)
    categories: dict[str, Counter[str]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> list[Finding]:
        """Errors and warnings of all splits."""
        return [f for found in self.splits.values() for f in found.items]

    @property
    def num_errors(self) -> int:
        return sum(f.severity == "error" for f in self.items)


def diagnose(
    splits: Mapping[str, Dataset[Any]],
    *,
    evaluation_sets: Mapping[str, Sequence[Dataset[Any]]] | None = None,
    min_score: float | None = None,
    workers: int | None = None,
) -> Diagnosis:
    """Looks for all that `findings.KINDS` names.

    Args:
        splits: "train" and "test", or some of them.
        evaluation_sets: name -> splits whose pictures must not be in "train".
        min_score: pairs with a lower score are named; None = those far below most.
        workers: processes; None = one a core, 1 = this one.
    """
    others = evaluation_sets or {}
    started = time.perf_counter()
    found: dict[str, list[Finding]] = {s: [] for s in splits}
    categories: dict[str, Counter[str]] = {s: Counter() for s in splits}
    total = sum(len(d) for d in (*splits.values(), *(d for sets in others.values() for d in sets)))
    with Records() as records, progress(total, "examining") as bar:
        for split, dataset in splits.items():
            for seen in _examined(dataset, split, records, bar, workers):
                found[split] += seen.findings
                categories[split][seen.category] += 1
        for name, datasets in others.items():
            for dataset in datasets:
                for _ in _examined(dataset, name, records, bar, workers):
                    pass
        seconds = time.perf_counter() - started
        later = _Later(splits, records)
        facts = later.look(list(others), min_score)
        for finding in later.found:
            found[finding.split].append(finding)
    for split, dataset in splits.items():
        unnamed = getattr(dataset, "unnamed_files", None)
        if unnamed is not None:
            files = [Finding("orphan", p, "no example uses this file", split=split, severity="warning") for p in unnamed()]
            found[split] += files
            break  # the splits of a spec share their folders
    facts |= {"examples": total, "seconds": round(time.perf_counter() - started, 2), "seconds_examining": round(seconds, 2)}
    return _sorted_out(splits, found, categories, facts)


def _sorted_out(
    splits: Mapping[str, Dataset[Any]],
    found: Mapping[str, list[Finding]],
    categories: dict[str, Counter[str]],
    facts: dict[str, Any],
) -> Diagnosis:
    diagnosis = Diagnosis({s: Findings(len(d)) for s, d in splits.items()}, categories=categories, facts=facts)
    for split, items in found.items():
        items.sort(key=lambda f: f.index if f.index >= 0 else len(splits[split]))
        diagnosis.splits[split].items = [f for f in items if f.severity != "note"]
        diagnosis.notes += [f for f in items if f.severity == "note"]
    return diagnosis


def _examined(dataset: Dataset[Any], group: str, records: Records, bar: Bar, workers: int | None) -> Iterator[Seen]:
    """Every example's findings, in order; a bounded number of chunks is in flight, so memory stays constant."""
    workers = workers or os.cpu_count() or 1
    starts = range(0, len(dataset), CHUNK)
    if workers == 1 or len(starts) < 2:
        answers: Iterator[list[Seen]] = (_examine_chunk(*_chunk(dataset, start)) for start in starts)
        yield from _noted(answers, group, records, bar)
        return
    with ProcessPoolExecutor(workers) as pool:

        def in_order() -> Iterator[list[Seen]]:
            flight: list[Future[list[Seen]]] = []
            for start in starts:
                # This process reads, since not every data set can be sent to another one; the others decode and compute.
                flight.append(pool.submit(_examine_chunk, *_chunk(dataset, start)))
                if len(flight) > 4 * workers:
                    yield flight.pop(0).result()
            for future in flight:
                yield future.result()

        yield from _noted(in_order(), group, records, bar)


def _noted(answers: Iterator[list[Seen]], group: str, records: Records, bar: Bar) -> Iterator[Seen]:
    for answer in answers:
        records.append(group, np.stack([seen.record for seen in answer]))
        bar.advance(len(answer))
        for seen in answer:
            yield Seen([_in_split(f, group, seen.category) for f in seen.findings], seen.record, seen.category)


def _in_split(finding: Finding, split: str, category: str) -> Finding:
    return Finding(finding.kind, finding.key, finding.why, finding.index, split, finding.severity, category, finding.figures)


def _chunk(dataset: Dataset[Any], start: int) -> tuple[int, list[Any]]:
    return start, [dataset[i] for i in range(start, min(start + CHUNK, len(dataset)))]


def _examine_chunk(start: int, examples: list[Any]) -> list[Seen]:
    return [examine(example, start + k) for k, example in enumerate(examples)]


class _Later:
    """What only all examples together can tell."""

    def __init__(self, splits: Mapping[str, Dataset[Any]], records: Records) -> None:
        self._splits, self._records = splits, records
        self._rows = records.rows()
        self.found: list[Finding] = []

    def look(self, others: Sequence[str], min_score: float | None) -> dict[str, Any]:
        """Fills `found`; returns what was measured."""
        if not len(self._rows):
            return {}
        facts = {"direction": self._swapped(), "scores": self._low_scores(min_score)}
        names = list(self._records.starts)
        counts = [self._records.counts[n] for n in names]
        group_of_row = np.repeat(np.arange(len(names), dtype=np.int16), counts)
        pictures = Pictures(self._rows, group_of_row)
        in_train = pictures.group == names.index("train") if "train" in names else np.zeros(len(pictures), bool)
        if "test" in names:
            for row, (other, exact) in matches_between(pictures, in_train, pictures.group == names.index("test")).items():
                self._match("split leak", row, other, exact, "the test split")
        for name in others:
            if name in names:
                for row, (other, exact) in matches_between(pictures, in_train, pictures.group == names.index(name)).items():
                    self._match("leak", row, other, exact, name)
        for split in self._splits:
            if split in names:
                for row, (other, exact) in repeats(self._rows, pictures, names.index(split)).items():
                    self._match("duplicate", row, other, exact, "the same split")
        return facts

    def _add(self, kind: str, row: int, why: str, figures: Mapping[str, Figure]) -> None:
        split, index = self._records.place(row)
        example = self._splits[split][index]
        category = example.category if isinstance(example, EditPair) else ""
        self.found.append(Finding(kind, example.key, why, index, split, category=category, figures=figures))

    def _match(self, kind: str, row: int, other: int, exact: bool, where: str) -> None:
        group, index = self._records.place(other)
        key = self._splits[group][index].key if group in self._splits else f"number {index + 1}"
        said = bool(self._rows["text"][row] == self._rows["text"][other])
        likeness = "the same picture as" if exact else "nearly the same picture as"
        what = "it is" if kind == "duplicate" else "it has"
        if kind == "duplicate":
            likeness = "the same as" if exact else "nearly the same as"
        why = f"{what} {likeness} {key} of {where}" + (", with the same instruction" if said and kind != "duplicate" else "")
        figures: dict[str, Figure] = {"other": key, "other_group": group, "other_index": index}
        figures |= {"exact": int(exact), "same_instruction": int(said)}
        self._add(kind, row, why, figures)

    def _swapped(self) -> dict[str, Any]:
        rows = self._rows
        contents = np.array(rows["content"])
        usable = (np.array(rows["pictures"]) == 2) & (np.array(rows["keep"]) == 0) & (np.array(rows["flawed"]) == 0)
        usable &= (contents[:, 0] != contents[:, 1]) & self._is_ours()
        if usable.sum() < FEWEST:
            return {"pairs": int(usable.sum()), "decided": 0, "why": f"not known: it takes at least {FEWEST} pairs that change"}
        agreement = agreements(rows["tokens"], rows["thumb"], usable)
        clear = decided_from(agreement)
        for row in np.flatnonzero(agreement < -clear):
            why = f"the pictures change against what the texts ask for (agreement {agreement[row]:+.2f})"
            self._add("swapped", int(row), why, {"agreement": round(float(agreement[row]), 3)})
        decided = int((np.abs(agreement) >= clear).sum())
        return {
            "pairs": int(usable.sum()),
            "decided": decided,
            "clear": round(clear, 4),
            "why": "of the others, the texts do not tell the direction",
        }

    def _is_ours(self) -> npt.NDArray[np.bool_]:
        ours = np.zeros(len(self._rows), bool)
        for split in self._splits:
            if split in self._records.starts:
                start = self._records.starts[split]
                ours[start : start + self._records.counts[split]] = True
        return ours

    def _low_scores(self, least: float | None) -> dict[str, Any]:
        scores = np.where(self._is_ours(), np.array(self._rows["score"]), np.nan)
        known = scores[~np.isnan(scores)]
        if not len(known):
            return {"pairs": 0}
        if least is None:
            lower, upper = np.percentile(known, [25, 75])
            least = float(lower - FENCE * (upper - lower))
        for row in np.flatnonzero(scores < least):
            figures = {"score": round(float(scores[row]), 4), "least": round(least, 4)}
            self._add("low score", int(row), f"its score is {scores[row]:.4g}, below {least:.4g}", figures)
        return {"pairs": len(known), "median": round(float(np.median(known)), 4), "least": round(least, 4)}
