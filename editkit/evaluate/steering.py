"""A person's hand in a trajectory: another plan or another verdict for a step, and what the model goes on from then.

What stands before the step stays as it is, what stood behind it is left out. All of it is written in the grammar of traces, as
the model would have written it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from editkit.data.traces import Inspection, PlanStep, TraceError, inspection_text, parse_inspection, parse_plan, plan_text
from editkit.errors import UserError
from editkit.evaluate.trajectories import Place, places_of
from editkit.models.bagel.parts import Then
from editkit.models.generator import Drawn, Said

Part = Said | Drawn
RIGHT = Inspection(ok=True)
NOT_AS_ASKED = "not as asked"  # the issue of a remark, which says only what to do


@dataclass(frozen=True, slots=True)
class Begun:
    """What a model goes on from.

    Attributes:
        parts: texts and pictures.
        then: what comes next; None = as the model wants.
    """

    parts: list[Part]
    then: Then | None


def plain(parts: Sequence[Part]) -> list[str | Image.Image]:
    """The texts and pictures themselves."""
    return [part.text if isinstance(part, Said) else part.picture for part in parts]


def replan(parts: Sequence[Part], step: int, ins: str, des: str) -> Begun:
    """Another plan of a step, which is drawn.

    Args:
        parts: of the trajectory.
        step: from 1.
        ins, des: the next change, and the whole picture after it.

    Raises:
        UserError: there is no such step; words that no plan can have.
    """
    place = _place(parts, step)
    ins, des = in_one_line(ins, "the instruction"), in_one_line(des, "the description")
    text = plan_text(PlanStep(ins, des, None))
    parse_plan(text, "the plan", step)
    before, said = list(parts[: place.first]), Said(text)
    was = parts[place.plan] if place.plan is not None else None
    return Begun([*before, was if isinstance(was, Said) and was.text == text else said], "image")


def declare_right(parts: Sequence[Part], step: int) -> Begun:
    """The verdict that a step is right; what is still to come stays so. A plan that was rejected undrawn is drawn.

    Args:
        parts: of the trajectory.
        step: from 1.

    Raises:
        UserError: there is no such step, nothing of it can be right, or its verdict says so already.
    """
    place, seen = _place(parts, step), inspection_of(parts, step)
    if seen is not None and seen.ok:
        raise UserError(f"step {step}: the verdict says already that it is right")
    if place.picture is None:
        return _draw_plan(parts, place, step)
    right = RIGHT if seen is None else Inspection(True, seen.on, deferred=seen.deferred)
    return Begun([*parts[: place.picture + 1], Said(inspection_text(right))], None)


def declare_wrong(parts: Sequence[Part], step: int, issue: str, refine: str) -> Begun:
    """The verdict that a step is wrong, upon which the model plans anew: of its picture, or of the plan where there is none.

    Args:
        parts: of the trajectory.
        step: from 1.
        issue: what is wrong; several are parted by ";".
        refine: what to do about it.

    Raises:
        UserError: there is no such step; words that no verdict can have.
    """
    place, seen = _place(parts, step), inspection_of(parts, step)
    issues = tuple(words for one in in_one_line(issue, "what is wrong").split(";") if (words := one.strip(" .")))
    if not issues:
        raise UserError("what is wrong is empty; expected some words")
    wanted = in_one_line(refine, "what to do")
    on = "plan" if place.picture is None else "image"
    wrong = Inspection(False, on, issues, seen.deferred if seen is not None else (), wanted)
    text = inspection_text(wrong)
    if parse_inspection(text, "the verdict", step) != wrong:
        raise TraceError("the verdict", step, "found words that read as another verdict; expected plain words")
    looked_at = place.plan if place.picture is None else place.picture
    return Begun([*parts[: place.first if looked_at is None else looked_at + 1], Said(text)], "text")


def remark(parts: Sequence[Part], words: str) -> Begun:
    """A correction of the last picture, in the words of a person.

    Args:
        parts: of the trajectory.
        words: what to do.

    Raises:
        UserError: there is no picture; words that no verdict can have.
    """
    drawn = [n for n, place in enumerate(places_of(plain(parts)), 1) if place.picture is not None]
    if not drawn:
        raise UserError("found no picture to remark on; draw one first")
    words = in_one_line(words, "the remark")
    return declare_wrong(parts, drawn[-1], NOT_AS_ASKED, words)


def inspection_of(parts: Sequence[Part], step: int) -> Inspection | None:
    """The verdict of a step, from 1; None = it has none."""
    number = _place(parts, step).verdict
    part = parts[number] if number is not None else None
    return parse_inspection(part.text) if isinstance(part, Said) else None


def in_one_line(text: str, what: str) -> str:
    """The words of a person, with single spaces.

    Args:
        text: as it was given.
        what: it is, for the message.

    Raises:
        UserError: there are none, or letters that are none.
    """
    line = " ".join(text.split())
    if not line:
        raise UserError(f"{what} is empty; expected some words")
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what}: found a character that is none (number {error.start + 1}); expected UTF-8") from error
    return line


def _draw_plan(parts: Sequence[Part], place: Place, step: int) -> Begun:
    plan = parts[place.plan] if place.plan is not None else None
    if not isinstance(plan, Said):
        raise UserError(f"step {step}: found neither a plan nor a picture; write the plan first")
    parse_plan(plan.text, "the plan", step)
    return Begun([*parts[: place.first + 1]], "image")


def _place(parts: Sequence[Part], step: int) -> Place:
    places = places_of(plain(parts))
    if not 1 <= step <= len(places):
        raise UserError(f"found step {step}; expected 1 to {len(places)}" if places else "found no step; draw something first")
    return places[step - 1]
