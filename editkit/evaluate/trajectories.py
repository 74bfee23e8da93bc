"""What a model wrote and drew on its way to a picture, step by step: as frames to look at, and in figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from editkit.data.pictures import Picture
from editkit.data.prepare import to_image
from editkit.data.traces import Inspection, TraceError, parse_inspection, parse_plan, steps_of
from editkit.evaluate.filmstrips import Frame

EMPTY = (184, 184, 184)  # of a trajectory without a picture
UNREADABLE = "cannot be read"


@dataclass
class Trajectory:
    """Texts and pictures in the order in which they came.

    Attributes:
        parts: of both kinds.
        why: it stopped there.
        by_itself: whether the model said so.
    """

    parts: list[str | Image.Image] = field(default_factory=list)
    why: str = ""
    by_itself: bool = False

    def add_text(self, text: str) -> None:
        """A plan or an inspection, or whatever was written."""
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


def frames_of(trajectory: Trajectory) -> list[Frame]:
    """A frame a plan, with the picture and the verdict that follow; what cannot be read is shown as it was written."""
    frames: list[Frame] = []
    for part in trajectory.parts:
        last = frames[-1] if frames else None
        if isinstance(part, Image.Image):
            if last is None or last.picture is not None or last.verdict:
                frames.append(Frame(part, "", ""))
            else:
                frames[-1] = Frame(part, last.instruction, last.description, note=last.note)
        elif (seen := _inspection(part)) is not None:
            if last is None or last.verdict:
                frames.append(Frame(None, "", "", part, seen.ok))
            else:
                frames[-1] = Frame(last.picture, last.instruction, last.description, part, seen.ok, last.note)
        else:
            frames.append(_planned(part))
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


def _planned(text: str) -> Frame:
    try:
        return Frame(None, *parse_plan(text))
    except TraceError:
        return Frame(None, text, "", note=UNREADABLE)
