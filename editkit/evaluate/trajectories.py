"""What a model wrote and drew on its way to a picture, step by step: as frames to look at, and in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image

from editkit.data.pictures import Picture
from editkit.data.prepare import to_image
from editkit.data.traces import Inspection, TraceError, inspection_words, parse_inspection, parse_plan, steps_of
from editkit.evaluate.filmstrips import Frame

EMPTY = (184, 184, 184)  # of a trajectory without a picture
UNREADABLE, PLAN_BY_HAND, VERDICT_BY_HAND = "cannot be read", "plan by hand", "verdict by hand"


@dataclass
class Trajectory:
    """Texts and pictures in the order in which they came.

    Attributes:
        parts: of both kinds.
        why: it stopped there.
        by_itself: whether the model said so.
        by_hand: the places, from 0, of texts that a person wrote.
    """

    parts: list[str | Image.Image] = field(default_factory=list)
    why: str = ""
    by_itself: bool = False
    by_hand: list[int] = field(default_factory=list)

    def add_text(self, text: str, *, by_hand: bool = False) -> None:
        """A plan or an inspection, or whatever was written."""
        if by_hand:
            self.by_hand.append(len(self.parts))
        self.parts.append(text)

    def add_picture(self, pixels_CHW: torch.Tensor) -> None:
        """A sketch, pixels in [-1, 1]."""
        self.parts.append(to_image(pixels_CHW))

    @property
    def pictures(self) -> list[Image.Image]:
        """The sketches."""
        return [part for part in self.parts if isinstance(part, Image.Image)]

    def last_picture(self, side: int) -> Image.Image:
        """What it came to; an empty one of `side` px where nothing was drawn."""
        return self.pictures[-1] if self.pictures else Image.new("RGB", (side, side), EMPTY)

    @property
    def well_formed(self) -> bool:
        """Whether plans, pictures and inspections can be read and stand where the grammar of traces has them."""
        nothing = Picture(data=b"")
        try:
            steps = steps_of([part if isinstance(part, str) else nothing for part in self.parts], "the trajectory")
        except TraceError:
            return False
        return bool(steps) and steps[-1].sketch is not None

    @property
    def inspections(self) -> list[Inspection]:
        """Those that can be read."""
        found = [_inspection(part) for part in self.parts if isinstance(part, str)]
        return [seen for seen in found if seen is not None]

    @property
    def num_inspected(self) -> int:
        """Pictures that a readable inspection follows."""
        following = zip(self.parts, self.parts[1:], strict=False)
        return sum(isinstance(a, Image.Image) and isinstance(b, str) and _inspection(b) is not None for a, b in following)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the parts of a step stand in a trajectory, from 0; None = the step has no such part."""

    plan: int | None = None
    picture: int | None = None
    verdict: int | None = None

    @property
    def first(self) -> int:
        """Of the parts that it has."""
        return min(number for number in (self.plan, self.picture, self.verdict) if number is not None)


def places_of(parts: Sequence[str | Image.Image]) -> list[Place]:
    """The steps of a trajectory: a plan each, with the picture and the verdict that follow; what cannot be read is a plan."""
    places: list[Place] = []
    for n, part in enumerate(parts):
        last = places[-1] if places else None
        if isinstance(part, Image.Image):
            if last is None or last.picture is not None or last.verdict is not None:
                places.append(Place(picture=n))
            else:
                places[-1] = replace(last, picture=n)
        elif _inspection(part) is None:
            places.append(Place(plan=n))
        elif last is None or last.verdict is not None:
            places.append(Place(verdict=n))
        else:
            places[-1] = replace(last, verdict=n)
    return places


def frames_of(trajectory: Trajectory) -> list[Frame]:
    """A frame a step; what cannot be read is shown as it was written."""
    frames = [_frame(trajectory, place) for place in places_of(trajectory.parts)]
    return frames or [Frame(None, "", "", note="nothing was written")]


def score_trajectories(made: Sequence[Trajectory]) -> dict[str, float]:
    """The form of trajectories, whatever their pictures show.

    Returns:
        Shares in [0, 1]: "well_formed", "stopped" (by themselves), "inspected" (of all pictures), "rejected" (of all
        inspections; only where there are some); and "pictures", their mean number.
    """
    pictures = sum(len(m.pictures) for m in made)
    seen = [s for m in made for s in m.inspections]
    rejected = {"rejected": sum(not s.ok for s in seen) / len(seen)} if seen else {}
    return {
        "well_formed": sum(m.well_formed for m in made) / len(made),
        "stopped": sum(m.by_itself for m in made) / len(made),
        "pictures": pictures / len(made),
        "inspected": sum(m.num_inspected for m in made) / max(1, pictures),
        **rejected,
    }


def _inspection(text: str) -> Inspection | None:
    try:
        return parse_inspection(text)
    except TraceError:
        return None


def _frame(trajectory: Trajectory, place: Place) -> Frame:
    plan, picture, verdict = (None if n is None else trajectory.parts[n] for n in (place.plan, place.picture, place.verdict))
    ins, des, notes = "", "", list[str]()
    if isinstance(plan, str):
        try:
            ins, des = parse_plan(plan)
        except TraceError:
            ins = plan
            notes.append(UNREADABLE)
    seen = _inspection(verdict) if isinstance(verdict, str) else None
    by_hand = ((PLAN_BY_HAND, place.plan), (VERDICT_BY_HAND, place.verdict))
    notes += [what for what, n in by_hand if n in trajectory.by_hand]
    shown = picture if isinstance(picture, Image.Image) else None
    said = inspection_words(seen) if seen is not None else ""
    return Frame(shown, ins, des, said, seen is None or seen.ok, ", ".join(notes))
