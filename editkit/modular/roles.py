"""Who plans and who inspects: chat models behind endpoints, or in the avatars world its grammar and its attribute reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from editkit.build.teachers.inspector import Asked, InspectorOptions, inspections
from editkit.build.teachers.planner import FIELDS, Planning, question, steps_of_reply
from editkit.data.pictures import Picture
from editkit.data.traces import Inspection, PlanTrace
from editkit.lab.avatar_goals import inspect_reading, plan_edits, read_goal, seen_as
from editkit.lab.judges import LabJudge
from editkit.models.chat.endpoint import Questions
from editkit.modular.budget import Meter

Plan = list[tuple[str, str]]  # (instruction, description of the whole picture after it), a step each


class Planner(Protocol):
    """Writes plans.

    Attributes:
        name: for what is saved.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    def plan(self, prompt: str, start: Picture | None, most: int, seed: int) -> Plan | None:
        """The steps to a picture; None where no usable plan came.

        Args:
            prompt: what the picture shall show in the end.
            start: the picture to begin with; None = nothing is drawn yet.
            most: steps that will be drawn.
            seed: of what is random about it.
        """
        ...


class Inspector(Protocol):
    """Looks at pictures.

    Attributes:
        name: for what is saved.
    """

    @property
    def name(self) -> str:
        """See above."""
        ...

    def inspect(self, trace: PlanTrace, seed: int) -> Inspection | None:
        """What is wrong with the picture of the last step, held against its plan; None where no usable verdict came."""
        ...


class ChatPlanner:
    """A chat model; to begin with a picture it must be one that sees.

    Args:
        options: of the endpoint.
        place: where they were written, for messages.
        meter: of the budget, which its requests count in.
    """

    def __init__(self, options: Planning, place: str, meter: Meter) -> None:
        self.name = options.model
        self._options = options
        self._questions = Questions(options, place, meter.before_request)
        meter.watch(self._questions.spent)

    def plan(self, prompt: str, start: Picture | None, most: int, seed: int) -> Plan | None:
        """See `Planner.plan`; of a longer plan all steps are returned, the last of which fulfils the prompt."""
        body = question(self._options, seed, prompt, "additive", start)
        answer = self._questions.answers([body], FIELDS)[0].answer
        return (steps_of_reply(answer)[0] or None) if answer is not None else None


class ChatInspector:
    """A chat model that sees; the arguments are those of `ChatPlanner`."""

    def __init__(self, options: InspectorOptions, place: str, meter: Meter) -> None:
        self.name = options.model
        self._options = options
        self._questions = Questions(options, place, meter.before_request)
        meter.watch(self._questions.spent)

    def inspect(self, trace: PlanTrace, seed: int) -> Inspection | None:
        """See `Inspector.inspect`."""
        return inspections(self._questions, self._options, seed, [Asked(trace, len(trace.steps), "image")])[0]


@dataclass(frozen=True)
class AvatarPlanner:
    """The grammar of the avatars world: the edits from what the reader sees to what the prompt, a caption, asks for.

    Without a picture to begin with there is one step, the whole.
    """

    judge: Callable[[], LabJudge]
    name = "the grammar of the avatars world"

    def plan(self, prompt: str, start: Picture | None, most: int, seed: int) -> Plan | None:
        """See `Planner.plan`; raises UserError for a prompt that is no caption, or that edits of the picture do not reach."""
        goal = read_goal(prompt)
        if start is None:
            return [(f"draw {prompt}", prompt)]
        steps = plan_edits(seen_as(self.judge().read([start.open()])[0]), goal, most, Random(seed))
        return steps or [("leave the picture as it is", prompt)]


@dataclass(frozen=True)
class AvatarInspector:
    """The attribute reader of the avatars world: every attribute that a description names is read from the picture."""

    judge: Callable[[], LabJudge]
    name = "the attribute reader of lab:judges"

    def inspect(self, trace: PlanTrace, seed: int) -> Inspection | None:
        """See `Inspector.inspect`; plans are captions, as `AvatarPlanner` writes them."""
        step = trace.steps[-1]
        if step.sketch is None:
            raise ValueError("found a step without a picture")
        reading = self.judge().read([step.sketch.open()])[0]
        return inspect_reading(reading, trace.prompt, step.des, Random(seed))
