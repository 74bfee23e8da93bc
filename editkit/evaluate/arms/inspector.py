"""How good a model's inspection of its own pictures is, and what its corrections do, against what really is on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

from editkit.data.traces import Inspection
from editkit.evaluate.arms.inference import Task, plan_before, verdict_of
from editkit.evaluate.arms.looking import Look, inspect, look
from editkit.evaluate.benches.geneval import Detector
from editkit.models.generator import Drawn
from editkit.models.rollouts import Rollout


@dataclass(frozen=True, slots=True)
class Sketch:
    """A picture of a trajectory.

    Attributes:
        seen: what is on it.
        truth: what is to be said of it.
        said: what the model said; None = nothing that can be read.
    """

    seen: Look
    truth: Inspection
    said: Inspection | None

    @property
    def rejected(self) -> bool:
        """Whether the model finds fault."""
        return self.said is not None and not self.said.ok


def sketches_of(rollout: Rollout, task: Task, detector: Detector) -> list[Sketch]:
    """The pictures of a trajectory in order."""
    found = []
    for n, part in enumerate(rollout.parts):
        if isinstance(part, Drawn):
            seen = look(detector, part.picture, task.asked)
            truth = inspect(seen, task.asked, plan_before(rollout.parts[:n]), Random(0))
            said = verdict_of(rollout.parts[n + 1]) if n + 1 < len(rollout.parts) else None
            found.append(Sketch(seen, truth, said))
    return found


def inspector_figures(trajectories: Sequence[Sequence[Sketch]]) -> dict[str, Any]:
    """What inspections and corrections are worth.

    Returns:
        Shares in [0, 1], None where there is nothing to take a share of, and "counts" of what each is a share of.
        "precision": of rejections, on faulty pictures. "recall": of faulty pictures that were inspected, rejected.
        "false_alarms": of faultless ones, rejected; "false_alarms_unfinished" of those on which something is still to come,
        "false_alarms_finished" of the others.
        "repair": of faulty pictures that were rejected and drawn anew, faultless in the next one.
        "harm": of faultless pictures with another one behind them, faulty in that; "harm_rejected" of those that were rejected.
        "gain", "gain_rejected": how much more often the next picture is what the prompt asks for, in [-1, 1], an extra
        picture; of all of them, and of those that follow a rejection. "demands_gain", "demands_gain_rejected": the same of the
        share of demands met.
    """
    inspected = [s for those in trajectories for s in those if s.said is not None]
    faulty, faultless = ([s for s in inspected if s.truth.ok is ok] for ok in (False, True))
    pairs = [(a, b) for those in trajectories for a, b in pairwise(those)]
    rejected = [(a, b) for a, b in pairs if a.rejected]
    groups = {
        "precision": [not s.truth.ok for s in inspected if s.rejected],
        "recall": [s.rejected for s in faulty],
        "false_alarms": [s.rejected for s in faultless],
        "false_alarms_unfinished": [s.rejected for s in faultless if s.truth.deferred],
        "false_alarms_finished": [s.rejected for s in faultless if not s.truth.deferred],
        "repair": [b.truth.ok for a, b in rejected if not a.truth.ok],
        "harm": [not b.truth.ok for a, b in pairs if a.truth.ok],
        "harm_rejected": [not b.truth.ok for a, b in rejected if a.truth.ok],
        "gain": [float(b.seen.correct) - a.seen.correct for a, b in pairs],
        "gain_rejected": [float(b.seen.correct) - a.seen.correct for a, b in rejected],
        "demands_gain": [_met(b) - _met(a) for a, b in pairs],
        "demands_gain_rejected": [_met(b) - _met(a) for a, b in rejected],
    }
    pictures = sum(len(those) for those in trajectories)
    shares: dict[str, Any] = {name: sum(values) / len(values) if values else None for name, values in groups.items()}
    return {**shares, "counts": {name: len(values) for name, values in groups.items()} | {"pictures": pictures}}


def _met(sketch: Sketch) -> float:
    right, asked = sketch.seen.atoms
    return right / max(1, asked)


INSPECTOR_ROWS: Mapping[str, str] = {
    "precision": "rejections that are right",
    "recall": "faulty pictures that are rejected",
    "false_alarms_unfinished": "faultless pictures rejected, something to come",
    "false_alarms_finished": "faultless pictures rejected, nothing to come",
    "repair": "rejected faults that the next picture mends",
    "harm": "faultless pictures that the next one spoils",
    "harm_rejected": "the same behind a rejection",
    "gain": "right pictures gained by a further one",
    "gain_rejected": "the same behind a rejection",
}
