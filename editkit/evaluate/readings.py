"""How well a judge reads scenes: categories, colours and counts against what can be seen, and every confusion.

An object that is neither clearly there nor clearly gone (`CLEAR`, `GONE`) is asked of nobody: a reader may report it or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from editkit.evaluate.benches.geneval_rules import CONFIDENCE, CONFIDENCE_COUNTING, Box, iou
from editkit.lab.scene_faults import Seen
from editkit.lab.scene_readings import CLEAR, GONE
from editkit.models.scene_reader.cells import Found

MATCH = 0.5  # overlap (IoU) from which on a box that was read is that of an object
DOUBT = 0.1  # overlap from which on something may be a doubtful object
BINS = 10  # of the confidence, for the calibration
# What a reader has to reach to judge, by figure of `figures`: of the lab's judges, and for GenEval in the lab.
DEMANDS: Mapping[str, float] = {
    "categories": 0.995,
    "colours": 0.99,
    "counts": 0.98,
    "corrupted_categories": 0.97,
}


@dataclass
class Tally:
    """What was found in some pictures; `add` counts one more.

    Attributes:
        objects, right, extra: clear objects, those that were read as their class, and readings of what is not there.
        colours, colours_right: of the objects whose class was right and whose colour can be named.
        counts, counts_right: (picture, class) pairs of what is or was read there, and those whose number was right.
        overlap: summed over the right ones, IoU.
        mistakes: what went wrong, in words -> how often.
        sureness: (confidence, whether it was right) of every reading.
    """

    objects: int = 0
    right: int = 0
    extra: int = 0
    colours: int = 0
    colours_right: int = 0
    counts: int = 0
    counts_right: int = 0
    overlap: float = 0.0
    mistakes: Counter[str] = field(default_factory=Counter)
    sureness: list[tuple[float, bool]] = field(default_factory=list)

    def add(self, truth: Sequence[Seen], read: Sequence[Found]) -> None:
        """Compares what is seen in a picture with what was read, boxes of both in the same units."""
        clear = [t for t in truth if t.visible >= CLEAR]
        doubtful = [t for t in truth if GONE < t.visible < CLEAR]
        found = [f for f in read if f.score > CONFIDENCE]
        owner = _match(clear, found)
        self.objects += len(clear)
        for i, reading in enumerate(found):
            if i in owner:
                self._compare(clear[owner[i]], reading)
            elif not any(iou(reading.box, _box(d)) >= DOUBT for d in doubtful):
                self.extra += 1
                self.mistakes[f"nothing read as {reading.kind}"] += 1
                self.sureness.append((reading.score, False))
        for j in set(range(len(clear))) - set(owner.values()):
            self.mistakes[f"{clear[j].kind} missed"] += 1
        self._count(clear, {d.kind for d in doubtful}, read)

    def _compare(self, truth: Seen, reading: Found) -> None:
        right = reading.kind == truth.kind
        self.sureness.append((reading.score, right))
        if not right:
            self.mistakes[f"{truth.kind} read as {reading.kind}"] += 1
            return
        self.right += 1
        self.overlap += iou(reading.box, _box(truth))
        if truth.colour:
            self.colours += 1
            self.colours_right += reading.colour == truth.colour
            if reading.colour != truth.colour:
                self.mistakes[f"{truth.colour} read as {reading.colour}"] += 1

    def _count(self, clear: Sequence[Seen], doubtful: set[str], read: Sequence[Found]) -> None:
        shown = Counter(t.kind for t in clear)
        counted = Counter(f.kind for f in read if f.score > CONFIDENCE_COUNTING)
        asked = (set(shown) | set(counted)) - doubtful
        self.counts += len(asked)
        self.counts_right += sum(shown[k] == counted[k] for k in asked)

    def merge(self, other: Tally) -> None:
        """Adds what another one counted."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def categories(self) -> float:
        """Share of objects and readings that agree in class and place: right / (objects + extra)."""
        return _share(self.right, self.objects + self.extra)

    def figures(self) -> dict[str, float]:
        """Shares in [0, 1]; NaN where nothing was asked.

        Returns:
            `categories`, `colours`, `counts`; `overlap`, the mean IoU of the right ones.
        """
        return {
            "categories": self.categories,
            "colours": _share(self.colours_right, self.colours),
            "counts": _share(self.counts_right, self.counts),
            "overlap": _share(self.overlap, self.right),
        }

    def calibration_error(self) -> float:
        """How far confidence and share of right readings are apart, on average over ten bins weighted by their readings."""
        bins: dict[int, list[tuple[float, bool]]] = {}
        for score, right in self.sureness:
            bins.setdefault(min(int(BINS * score), BINS - 1), []).append((score, right))
        gaps = [abs(sum(s - r for s, r in those)) for those in bins.values()]
        return _share(sum(gaps), len(self.sureness))


def tally(pictures: Iterable[tuple[Sequence[Seen], Sequence[Found]]]) -> Tally:
    """Counts over pictures, (what is seen, what was read) each."""
    found = Tally()
    for truth, read in pictures:
        found.add(truth, read)
    return found


def summarise_readings(by_condition: Mapping[str, Tally]) -> dict[str, Any]:
    """The scores of a reader.

    Args:
        by_condition: "clean" and at least one other, such as "blurred".

    Returns:
        `scores`: the figures of the clean pictures, and with "corrupted_" before them the means of those of all other
        conditions, which count alike however many pictures they have, each with its `calibration_error` (of the others: of all
        readings together); `by_attribute`: each figure but the overlap by condition; `confusion`: by condition, every mistake
        and how often it was made.
    """
    clean, others = by_condition["clean"], [found for condition, found in by_condition.items() if condition != "clean"]
    corrupted = Tally()
    for found in others:
        corrupted.merge(found)
    scores: dict[str, float] = {**clean.figures(), "calibration_error": clean.calibration_error()}
    for name in clean.figures():
        asked = [value for found in others if (value := found.figures()[name]) == value]
        scores[f"corrupted_{name}"] = _share(sum(asked), len(asked))
    scores["corrupted_calibration_error"] = corrupted.calibration_error()
    rows = {
        f"{condition}: {name}": value
        for condition, found in by_condition.items()
        for name, value in found.figures().items()
        if name != "overlap" and value == value
    }
    confusion = {condition: dict(found.mistakes.most_common()) for condition, found in by_condition.items() if found.mistakes}
    return {"scores": scores, "by_attribute": rows, "confusion": confusion}


def unmet(scores: Mapping[str, float]) -> list[str]:
    """The demands on a judge that it does not meet, in words; [] = accepted, as far as renders can tell."""
    return [
        f"{name}: found {scores[name]:.4f}; expected at least {least}"
        for name, least in DEMANDS.items()
        if not scores[name] >= least
    ]


def _match(clear: Sequence[Seen], found: Sequence[Found]) -> dict[int, int]:
    """Reading -> object, the best overlaps first, each once."""
    pairs = [(iou(f.box, _box(t)), i, j) for i, f in enumerate(found) for j, t in enumerate(clear)]
    owner: dict[int, int] = {}
    for overlap, i, j in sorted(pairs, key=lambda p: -p[0]):
        if overlap >= MATCH and i not in owner and j not in owner.values():
            owner[i] = j
    return owner


def _box(seen: Seen) -> Box:
    left, top, right, bottom = seen.box
    return float(left), float(top), float(right), float(bottom)


def _share(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")
