"""GenEval's rules as pure functions over detections (Ghosh et al., 2023, arXiv:2310.11513, and its published thresholds).

Written from the description. Boxes are (left, top, right, bottom) in px, y downwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
CONFIDENCE = 0.3  # a detection counts above it,
CONFIDENCE_COUNTING = 0.9  # and above this one where the tag is "counting"
MAX_BOXES = 16  # a class
NMS_IOU = 1.0  # boxes that overlap as much are one object; 1 = none are
REACH = 0.1  # of the summed sizes of two boxes by which their offset must exceed zero
TOWARDS = 0.5  # of the offset's length that must point in a direction

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """One object that a detector found.

    Attributes:
        name: its class, in GenEval's words ("computer mouse").
        box: in px.
        score: confidence in [0, 1].
        mask: its pixels, bool, shape (height, width) of the picture; None where the detector gives boxes only.
    """

    name: str
    box: Box
    score: float
    mask: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Atom:
    """One thing that a prompt asks for.

    Attributes:
        kind: "count", "color", "position" or "exclude".
        right: whether the picture shows it; the colour of an object that is not there is not shown.
        reason: what is wrong, in words; "" where nothing is.
    """

    kind: str
    right: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of one picture: right when every atom is."""

    atoms: tuple[Atom, ...]

    @property
    def correct(self) -> bool:
        return all(atom.right for atom in self.atoms)

    @property
    def reason(self) -> str:
        return "\n".join(atom.reason for atom in self.atoms if atom.reason)


NamesColours = Callable[[Sequence[Detection]], Sequence[str]]


def usable(detections: Sequence[Detection], tag: str, nms_iou: float = NMS_IOU) -> dict[str, list[Detection]]:
    """Class -> its detections that count, the surest first."""
    threshold = CONFIDENCE_COUNTING if tag == "counting" else CONFIDENCE
    found: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda d: -d.score):
        if detection.score > threshold:
            found.setdefault(detection.name, []).append(detection)
    return {name: suppress(boxes[:MAX_BOXES], nms_iou) for name, boxes in found.items()}


def suppress(detections: Sequence[Detection], nms_iou: float) -> list[Detection]:
    """Leaves out what overlaps a surer detection by at least `nms_iou`; 1 leaves out nothing, not even an equal box."""
    kept: list[Detection] = []
    for detection in detections:
        if nms_iou >= 1 or all(iou(detection.box, k.box) < nms_iou for k in kept):
            kept.append(detection)
    return kept


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]; 0 where both are empty."""
    across, down = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(across, 0.0) * max(down, 0.0)
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - shared
    return shared / union if union > 0 else 0.0


def relations(a: Box, b: Box) -> set[str]:
    """Where `a` is, seen from `b`; two may hold at once, or none.

    With the offset o of the centres and the sizes d: r = max(|o| - 0.1 (d_a + d_b), 0) sign(o), and r / |o| > 0.5 on an axis.
    """
    offset = np.array([a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]], dtype=np.float64) / 2
    sizes = np.array([a[2] - a[0] + b[2] - b[0], a[3] - a[1] + b[3] - b[1]], dtype=np.float64)
    beyond = np.maximum(np.abs(offset) - REACH * sizes, 0) * np.sign(offset)
    if np.all(np.abs(beyond) < 1e-3):
        return set()
    across, down = beyond / np.linalg.norm(offset)
    holds = {"left of": across < -TOWARDS, "right of": across > TOWARDS, "above": down < -TOWARDS, "below": down > TOWARDS}
    return {name for name, held in holds.items() if held}


def judge(
    asked: Mapping[str, Any], detections: Sequence[Detection], colours: NamesColours, nms_iou: float = NMS_IOU
) -> Verdict:
    """Whether a picture shows what a line of the prompt file asks for.

    Args:
        asked: the line, see `editkit.evaluate.benches.geneval.read_prompts`.
        detections: all objects of all classes that were found in the picture, of any confidence.
        colours: names the colours of some of them, one of `COLOURS` each; asked only where the prompt names a colour.
        nms_iou: see `suppress`.
    """
    found = usable(detections, asked["tag"], nms_iou)
    atoms: list[Atom] = []
    matched: list[list[Detection] | None] = []  # per entry: what others may be beside, if all that it asks for was right
    for entry in asked["include"]:
        boxes = found.get(entry["class"], [])[: entry["count"]]
        own = [_count(entry, boxes)]
        if "color" in entry:
            own.append(_colour(entry, boxes, colours, own[0].right))
        if "position" in entry:
            name, other = entry["position"]
            own.append(_position(entry, boxes, matched[other], name, all(atom.right for atom in own)))
        atoms += own
        matched.append(boxes if all(atom.right for atom in own) else None)
    for entry in asked.get("exclude", ()):
        number = len(found.get(entry["class"], []))
        right = number < entry["count"]
        atoms.append(Atom("exclude", right, "" if right else f"expected {entry['class']}<{entry['count']}, found {number}"))
    return Verdict(tuple(atoms))


def _count(entry: Mapping[str, Any], boxes: Sequence[Detection]) -> Atom:
    right = len(boxes) >= entry["count"]
    return Atom("count", right, "" if right else f"expected {entry['class']}>={entry['count']}, found {len(boxes)}")


def _colour(entry: Mapping[str, Any], boxes: Sequence[Detection], colours: NamesColours, there: bool) -> Atom:
    if not there:
        return Atom("color", False)
    seen = list(colours(boxes))
    number = seen.count(entry["color"])
    right = number >= entry["count"]
    wanted = f"expected {entry['color']} {entry['class']}>={entry['count']}, found {number} {entry['color']}"
    return Atom("color", right, "" if right else f"{wanted} among {', '.join(seen)}")


def _position(
    entry: Mapping[str, Any], boxes: Sequence[Detection], others: Sequence[Detection] | None, name: str, so_far: bool
) -> Atom:
    if not so_far:
        return Atom("position", False)
    if others is None:
        return Atom("position", False, f"found nothing right for {entry['class']} to be {name}")
    for box in boxes:
        for other in others:
            seen = relations(box.box, other.box)
            if name not in seen:
                where = " and ".join(sorted(seen)) or "in no clear direction from"
                return Atom("position", False, f"expected {entry['class']} {name} {other.name}, found it {where} it")
    return Atom("position", True)
