"""Ways to come to one picture a prompt with the same network, at known cost.

direct            the prompt alone, the recipe's steps
direct-equal      the same with as many steps as cost what "adaptive" costs on average
adaptive          plans, sketches and inspects until it says that it is done, up to the recipe's pictures
no-rejection      every rejection is read as an approval; what is still to come stays
oracle            every verdict on a picture is replaced by the true one
forced-K          neither stops before K pictures nor goes on behind them; of one picture, the whole in one plan
best-own-N        N pictures of the whole in one plan; its own inspection chooses; costs at most what "adaptive" costs
best-exact-N      the same pictures; whoever judges the bench chooses: an upper bound
search-M          of every step M sketches, of which its own inspection chooses one: a larger budget
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import torch
from PIL import Image

from editkit.data.traces import Inspection, TraceError, inspection_text, parse_inspection
from editkit.evaluate.arms.looking import Look, inspect, look
from editkit.evaluate.benches.drawing import seed_of
from editkit.evaluate.benches.geneval import Detector
from editkit.evaluate.trajectories import EMPTY
from editkit.lab.scenes import Scene
from editkit.models.bagel.cost import Cost
from editkit.models.bagel.parts import Then
from editkit.models.bagel.session import Drawing
from editkit.models.generator import Drawn, Said
from editkit.models.rollouts import Beginning, Made, Rollout, Rollouts

AT_ONCE = "<ins>draw all at once:"  # how a plan of the whole begins, in a phrasing of the training data
ROUNDS = 12  # of a hand in the trajectory, at most


@dataclass(frozen=True, slots=True)
class Task:
    """One picture that is wanted.

    Attributes:
        number: of the prompt.
        sample: which of its pictures.
        asked: the line of the prompt file.
        scene: that fulfils it.
        seed: of the picture's random numbers.
    """

    number: int
    sample: int
    asked: Mapping[str, Any]
    scene: Scene
    seed: int

    @property
    def beginning(self) -> Beginning:
        """Nothing but the prompt."""
        return Beginning(self.asked["prompt"], self.seed)


@dataclass
class Arm:
    """What came of a way.

    Attributes:
        pictures: one a task; an empty one where nothing was drawn.
        costs: of each.
        facts: what was chosen for the budget, such as "steps".
        rollouts: the trajectories, where there are some.
    """

    pictures: list[Image.Image]
    costs: list[Cost]
    facts: dict[str, Any] = field(default_factory=dict)
    rollouts: list[Rollout] = field(default_factory=list)

    @property
    def mean_flops(self) -> float:
        """Operations a picture."""
        return sum(cost.flops for cost in self.costs) / len(self.costs)


def tasks_of(prompts: Sequence[tuple[Scene, Mapping[str, Any]]], samples: int, seed: int) -> list[Task]:
    """All pictures of a bench, under the seeds that `editkit eval --bench geneval` gives them."""
    numbered = enumerate(prompts)
    return [Task(i, n, asked, scene, seed_of(seed, i, n)) for i, (scene, asked) in numbered for n in range(samples)]


def of_rollouts(rollouts: Rollouts, made: list[Rollout], **facts: Any) -> Arm:
    """The last picture of each trajectory."""
    return Arm([last_picture(r, rollouts.side) for r in made], [rollouts.cost(r) for r in made], facts, made)


def last_picture(made: Rollout, side: int) -> Image.Image:
    """What a trajectory came to; an empty picture of `side` px where nothing was drawn."""
    return made.pictures[-1].picture if made.pictures else Image.new("RGB", (side, side), EMPTY)


def direct(rollouts: Rollouts, tasks: Sequence[Task], steps: int) -> Arm:
    """A picture from each prompt alone."""
    how = replace(rollouts.drawing, steps=steps)
    drawn = rollouts.draw([task.beginning for task in tasks], how)
    costs = [rollouts.cost_at_once(task.asked["prompt"], how) for task in tasks]
    return Arm([d.picture for d in drawn], costs, {"steps": steps})


def adaptive(rollouts: Rollouts, tasks: Sequence[Task]) -> Arm:
    """As the model decides."""
    return of_rollouts(rollouts, rollouts.roll([task.beginning for task in tasks]))


def forced(rollouts: Rollouts, tasks: Sequence[Task], pictures: int) -> Arm:
    """So many pictures, neither fewer nor more."""
    if pictures == 1:
        return of_rollouts(rollouts, rollouts.roll(whole_plans(rollouts, tasks), _stop_behind(1), 1), pictures=1)
    made = rollouts.roll([task.beginning for task in tasks], _stop_behind(pictures), pictures)
    return of_rollouts(rollouts, made, pictures=pictures)


def _stop_behind(pictures: int) -> Callable[[int, Then, Sequence[Made]], Then]:
    def decide(_: int, wanted: Then, parts: Sequence[Made]) -> Then:
        if sum(isinstance(p, Drawn) for p in parts) >= pictures:
            return "stop"
        return "text" if wanted == "stop" else wanted

    return decide


def no_rejection(rollouts: Rollouts, tasks: Sequence[Task]) -> Arm:
    """Every rejection is turned into an approval, with what is still to come; a plan that it rejects is drawn."""

    def turn(_: int, parts: list[Made]) -> tuple[list[Made], Then | None]:
        seen = verdict_of(parts[-1])
        if seen is None or seen.ok:
            return parts, None
        if not isinstance(parts[-2] if len(parts) > 1 else None, Drawn):
            return parts[:-1], "image"
        return [*parts[:-1], Said(inspection_text(Inspection(True, seen.on, deferred=seen.deferred)))], None

    made = with_a_hand(rollouts, tasks, lambda parts: is_rejection(parts[-1]), turn)
    return of_rollouts(rollouts, made)


def oracle(rollouts: Rollouts, tasks: Sequence[Task], detector: Detector) -> Arm:
    """Behind every picture stands what is true of it; it stops where nothing is wrong or to come."""

    def say(number: int, parts: list[Made]) -> tuple[list[Made], Then | None]:
        task, drawn = tasks[number], parts[-1]
        assert isinstance(drawn, Drawn)
        rng = Random(f"oracle/{task.seed}/{len(parts)}")
        seen = inspect(look(detector, drawn.picture, task.asked), task.asked, plan_before(parts), rng)
        return [*parts, Said(inspection_text(seen))], "stop" if seen.ok and not seen.deferred else "text"

    made = with_a_hand(rollouts, tasks, lambda parts: isinstance(parts[-1], Drawn), say)
    return of_rollouts(rollouts, made, judge=detector.name)


def with_a_hand(
    rollouts: Rollouts,
    tasks: Sequence[Task],
    where: Callable[[Sequence[Made]], bool],
    change: Callable[[int, list[Made]], tuple[list[Made], Then | None]],
) -> list[Rollout]:
    """Trajectories in which something is changed wherever `where` is true of what there is so far.

    Args:
        rollouts: of the model.
        tasks: one a trajectory.
        where: given all parts, which are at least one.
        change: given the task's number and all parts: the parts to go on from, and with what.
    """
    begun = {n: task.beginning for n, task in enumerate(tasks)}
    done: dict[int, Rollout] = {}
    for _ in range(ROUNDS):
        if not begun:
            break
        numbers, first = list(begun), [len(b.parts) for b in begun.values()]

        def pause(row: int, wanted: Then, parts: Sequence[Made], first: Sequence[int] = first) -> Then:
            return "stop" if len(parts) > first[row] and where(parts) else wanted

        for number, roll in zip(numbers, rollouts.roll(list(begun.values()), pause), strict=True):
            here = begun.pop(number)
            full = roll.why.startswith("as many")
            if full or len(roll.parts) == len(here.parts) or not where(roll.parts):
                done[number] = replace(roll, begun=tasks[number].beginning)
                continue
            parts, then = change(number, list(roll.parts))
            if then == "stop" or parts == roll.parts:
                done[number] = replace(roll, begun=tasks[number].beginning, parts=parts)
            else:
                begun[number] = replace(here, parts=tuple(parts), then=then)
    left = {n: Rollout(tasks[n].beginning, list(b.parts), "was changed too often") for n, b in begun.items()}
    return [(done | left)[n] for n in range(len(tasks))]


def whole_plans(rollouts: Rollouts, tasks: Sequence[Task]) -> list[Beginning]:
    """The prompts with a plan of the whole scene, which the model writes, to be drawn next."""
    begun = [task.beginning for task in tasks]
    plans = rollouts.write(begun, AT_ONCE)
    return [replace(b, parts=(plan,), then="image") for b, plan in zip(begun, plans, strict=True)]


def candidates_for(rollouts: Rollouts, tasks: Sequence[Task], flops: float) -> int:
    """How many candidates of a whole plan cost at most so many operations on average; at least one."""
    empty = empty_drawn(rollouts.side)
    made = [Rollout(b, [*b.parts, empty]) for b in whole_plans(rollouts, tasks)]
    two, three = (sum(rollouts.cost(r, candidates=n).flops for r in made) / len(made) for n in (2, 3))
    return max(1, math.floor((flops - two) / (three - two)) + 2)


def best_of(rollouts: Rollouts, tasks: Sequence[Task], number: int, detector: Detector | None = None) -> Arm:
    """The best of several pictures of the whole.

    Args:
        rollouts: of the model.
        tasks: what is wanted.
        number: candidates a task, each under a seed of its own.
        detector: that chooses the one which meets most demands; None = the model's own inspection chooses.
    """
    plans = whole_plans(rollouts, tasks)
    drawn = _candidates(rollouts, plans, number, rollouts.drawing, plan=True)
    if detector is None:
        scores = rollouts.approve([replace(plans[n // number], parts=(*plans[n // number].parts, d)) for n, d in drawn])
    else:
        scores = _met(detector, tasks, [d for _, d in drawn])
    best = _best(scores, number)
    chosen = [Rollout(plans[i], [*plans[i].parts, drawn[n][1]]) for i, n in enumerate(best)]
    costs = [rollouts.cost(r, candidates=number) for r in chosen]
    return Arm([drawn[n][1].picture for n in best], costs, {"candidates": number}, chosen)


def best_direct(rollouts: Rollouts, tasks: Sequence[Task], number: int, detector: Detector) -> Arm:
    """The same of pictures from the prompt alone; the detector chooses."""
    begun = [task.beginning for task in tasks]
    drawn = _candidates(rollouts, begun, number, rollouts.drawing, plan=False)
    best = _best(_met(detector, tasks, [d for _, d in drawn]), number)
    costs = [sum([rollouts.cost_at_once(b.prompt, rollouts.drawing)] * number, Cost()) for b in begun]
    return Arm([drawn[n][1].picture for n in best], costs, {"candidates": number})


def _candidates(
    rollouts: Rollouts, begun: Sequence[Beginning], number: int, how: Drawing, *, plan: bool
) -> list[tuple[int, Drawn]]:  # fmt: skip
    """(place, picture) of so many of each beginning, the first under its own seed."""
    wider = [replace(b, seed=seed_of(b.seed, 0, n) if n else b.seed, then=None) for b in begun for n in range(number)]
    return list(enumerate(rollouts.draw(wider, how, plan=plan)))


def _best(scores: Sequence[float], number: int) -> list[int]:
    """The place of the highest of each so many; of equals the first."""
    return [max(range(i, i + number), key=lambda n: scores[n]) for i in range(0, len(scores), number)]


def _met(detector: Detector, tasks: Sequence[Task], drawn: Sequence[Drawn]) -> list[float]:
    number = len(drawn) // len(tasks)
    return [_share(look(detector, d.picture, tasks[n // number].asked)) for n, d in enumerate(drawn)]


def _share(seen: Look) -> float:
    return seen.correct + seen.atoms[0] / max(1, seen.atoms[1])


def search(rollouts: Rollouts, tasks: Sequence[Task], width: int) -> Arm:
    """A trajectory in which of every step several sketches are drawn, and the one that its own inspection likes best stays."""

    def choose(begun: Sequence[Beginning]) -> list[Drawn]:
        drawn = _candidates(rollouts, begun, width, rollouts.drawing, plan=True)
        scores = rollouts.approve([replace(begun[n // width], parts=(*begun[n // width].parts, d)) for n, d in drawn])
        return [drawn[n][1] for n in _best(scores, width)]

    begun = {n: task.beginning for n, task in enumerate(tasks)}
    done: dict[int, Rollout] = {}
    while begun:
        numbers = list(begun)
        wants: dict[int, Then] = {}

        def pause(row: int, wanted: Then, _: Sequence[Made], wants: dict[int, Then] = wants) -> Then:
            wants[row] = wanted
            return "stop" if wanted == "image" else wanted

        rolls = rollouts.roll(list(begun.values()), pause)
        waiting = []
        for row, (number, roll) in enumerate(zip(numbers, rolls, strict=True)):
            here = begun.pop(number)
            if wants.get(row) == "image" and len(roll.pictures) < rollouts.limits.images and roll.why == "was stopped":
                waiting.append((number, replace(here, parts=tuple(roll.parts))))
            else:
                done[number] = replace(roll, begun=tasks[number].beginning)
        for (number, b), drawn in zip(waiting, choose([b for _, b in waiting]), strict=True):
            begun[number] = replace(b, parts=(*b.parts, drawn))
    made = [done[n] for n in range(len(tasks))]
    costs = [rollouts.cost(r, candidates=width) for r in made]
    return Arm([last_picture(r, rollouts.side) for r in made], costs, {"candidates": width}, made)


def verdict_of(part: Made) -> Inspection | None:
    """The inspection that a part is; None where it is none that can be read."""
    try:
        return parse_inspection(part.text) if isinstance(part, Said) else None
    except TraceError:
        return None


def is_rejection(part: Made) -> bool:
    """Whether a part is an inspection that finds fault."""
    seen = verdict_of(part)
    return seen is not None and not seen.ok


def plan_before(parts: Sequence[Made]) -> str:
    """The last plan in words; "" where there is none."""
    texts = [p.text for p in parts if isinstance(p, Said) and p.text.startswith("<ins>")]
    return texts[-1] if texts else ""


def empty_drawn(side: int) -> Drawn:
    """A grey picture as one that was drawn."""
    image = Image.new("RGB", (side, side), EMPTY)
    return Drawn(image, torch.full((3, side, side), EMPTY[0] / 127.5 - 1))
