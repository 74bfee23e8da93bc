"""Whether what stands in a trajectory causes what comes of it: a sketch or a critique is replaced, and the model goes on.

A sketch: the first one of each trajectory is replaced by the same one ("own", the control), by an empty picture ("blank"), by
that of another prompt ("other") or by a render of a scene that fulfils the prompt ("right"). A critique: the first rejection of
each trajectory that has one stays ("own"), or is replaced by that of another one ("shuffled"). Where the steps matter, "blank",
"other" and "shuffled" cost accuracy and "right" gains some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from editkit.data.prepare import PrepareParams, prepare, to_image, to_network
from editkit.evaluate.arms.inference import Arm, Task, empty_drawn, is_rejection, of_rollouts
from editkit.lab.scenes import render
from editkit.models.generator import Drawn
from editkit.models.rollouts import Made, Rollout, Rollouts

SKETCHES, CRITIQUES = ("own", "blank", "other", "right"), ("own", "shuffled")
RENDERED = 64  # px, of the data set's pictures, which are prepared like these


def with_sketch(rollouts: Rollouts, tasks: Sequence[Task], made: Sequence[Rollout], what: str) -> tuple[list[int], Arm]:
    """(numbers of the trajectories that have a sketch, what they come to with another one).

    Args:
        rollouts: of the model.
        tasks: one a trajectory.
        made: the trajectories as they were.
        what: one of `SKETCHES`.
    """
    places = [next((n for n, p in enumerate(r.parts) if isinstance(p, Drawn)), None) for r in made]
    have = [(i, place) for i, place in enumerate(places) if place is not None]
    others = _others([(tasks[i].asked["prompt"], made[i].parts[place]) for i, place in have])
    begun = []
    for (i, place), other in zip(have, others, strict=True):
        own = made[i].parts[place]
        sketch: Made = {"own": own, "other": other}.get(what) or _drawn(rollouts, tasks[i], what)
        begun.append(replace(tasks[i].beginning, parts=(*made[i].parts[:place], sketch)))
    return [i for i, _ in have], of_rollouts(rollouts, rollouts.roll(begun))


def with_critique(rollouts: Rollouts, tasks: Sequence[Task], made: Sequence[Rollout], what: str) -> tuple[list[int], Arm]:
    """The same with another first rejection of a picture; `what` is one of `CRITIQUES`."""
    have = []
    for i, roll in enumerate(made):
        behind = (n for n, p in enumerate(roll.parts) if n and isinstance(roll.parts[n - 1], Drawn) and is_rejection(p))
        if (place := next(behind, None)) is not None:
            have.append((i, place))
    own = [made[i].parts[place] for i, place in have]
    others = _others([(tasks[i].asked["prompt"], critique) for (i, _), critique in zip(have, own, strict=True)])
    chosen = own if what == "own" else others
    begun = [
        replace(tasks[i].beginning, parts=(*made[i].parts[:place], critique))
        for (i, place), critique in zip(have, chosen, strict=True)
    ]
    return [i for i, _ in have], of_rollouts(rollouts, rollouts.roll(begun))


def _others(of: Sequence[tuple[str, Made]]) -> list[Made]:
    """For each the next one of another prompt, counted round; its own where there is no other prompt."""
    found = []
    for n, (prompt, own) in enumerate(of):
        behind = [*of[n + 1 :], *of[:n]]
        found.append(next((part for asked, part in behind if asked != prompt), own))
    return found


def _drawn(rollouts: Rollouts, task: Task, what: str) -> Drawn:
    if what == "blank":
        return empty_drawn(rollouts.side)
    picture: Image.Image = render(task.scene, RENDERED)
    pixels_CHW = to_network(prepare([picture], PrepareParams(rollouts.side)))[0]
    return Drawn(to_image(pixels_CHW), pixels_CHW)
