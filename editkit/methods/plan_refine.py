"""Plan, sketch, inspect, refine: a BAGEL learns to draw in steps, to look at what it drew, and to correct it.

After "Think in Strokes, Not Pixels" (Zhang et al. 2026, arXiv:2604.04746): cross-entropy on plans, inspections and on what
comes next, and the flow's squared error on sketches. A trace becomes one sequence:

    prompt                        context; what follows is learned: a plan
    plan                          learned; what follows: a picture, or the inspection that rejects the plan
    sketch, noised                learned, where it is to be drawn like this
    sketch, clean and as seen     context
    inspection                    learned; what follows: the next plan, or the end

A step whose `need_loss` is false is context. So a faulty draft is seen and never imitated, which the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from editkit.data.draws import Draws
from editkit.data.examples import Dataset
from editkit.data.pictures import Picture
from editkit.data.traces import PREFIX, PlanStep, PlanTrace, inspection_text, plan_text
from editkit.errors import UserError
from editkit.evaluate.benches.scene_bench import bench_prompts, score_scenes
from editkit.evaluate.filmstrips import filmstrips
from editkit.evaluate.trajectories import Trajectory, frames_of, score_trajectories
from editkit.methods.interleaved import InterleavedOptions, Pictures, WholeBagel, chunks, drawing
from editkit.methods.protocol import Batch
from editkit.models.bagel.generate import SAID_SO, Drew, Limits, Stopped, Wrote, generate
from editkit.models.bagel.load import BagelParts
from editkit.models.bagel.parts import Gap, NoisedImage, Part, Sample, Text, Then
from editkit.models.bagel.session import Writing
from editkit.models.bagel.tokenizer import decode
from editkit.recipe.schema import NonNegativeInt, PositiveInt, Recipe

PREVIEWED = 6  # strips of a sheet


class PlanRefine(WholeBagel):
    """Every trace as one sequence."""

    class Options(InterleavedOptions):
        """The further keys of `[method]`."""

        # Whether a sketch that its trace calls wrong is learned like the others: arm A9 of the lab's experiment.
        learn_faulty_drafts: bool = False
        # Multi-turn traces go from sketch to sketch without a look. True = nothing is learned of them about what follows a
        # sketch, so that the inspected traces decide, and every sketch is inspected. False = it is learned as the data have it,
        # which traces without any inspections need, for nothing else says when to stop.
        always_inspect: bool = True
        # "last": the plans of all steps are written first, and only the last picture is drawn: arm A2 of the lab's experiment.
        sketches: Literal["all", "last"] = "all"
        max_pictures: PositiveInt = 5  # of a trajectory that is sampled; quality collapses with many (arXiv:2603.07540)
        max_text: NonNegativeInt = 256  # tokens of a plan or an inspection that is sampled

    kind = "plan_traces"

    def __init__(self, recipe: Recipe, options: Options, parts: BagelParts) -> None:
        super().__init__(recipe, options, parts)
        self._options = options

    def pictures_of(self, example: PlanTrace) -> Sequence[Picture]:
        shown = [step.sketch for step in example.steps if step.sketch is not None]
        return shown[-1:] if self._options.sketches == "last" else shown

    def texts_of(self, example: PlanTrace) -> tuple[str, ...]:
        return (example.prompt,)

    def targets_of(self, example: PlanTrace) -> Mapping[str, Any]:
        return {"trace": example}

    def samples(self, batch: Batch, draws: Draws) -> list[Sample]:
        """The sequence of each trace."""
        pictures = self._learner.pictures(batch, draws)
        return [self.sample(trace, shown) for trace, shown in zip(batch["trace"], pictures, strict=True)]

    def sample(self, trace: PlanTrace, shown: Pictures) -> Sample:
        """The sequence of a trace.

        Args:
            trace: as the data have it.
            shown: its sketches, in order.
        """
        if self._options.sketches == "last":
            return self._planned_at_once(trace, shown)
        parts: list[Part] = [self._learner.text(PREFIX + trace.prompt, then="text")]
        number, looked = 0, True  # whether somebody looked at the step before
        for n, step in enumerate(trace.steps):
            ends = trace.final is not None and n == len(trace.steps) - 1
            free = self._options.always_inspect and not looked
            parts += self._plan(step, free)
            seen, needed = step.inspection, step.need_loss
            if step.sketch is not None:
                faulty = seen is not None and not seen.ok
                if needed.sketch or (faulty and self._options.learn_faulty_drafts):
                    parts.append(shown.noised(number))
                following: Then = "stop" if ends and seen is None else "text"
                decides = needed.inspection if seen is not None else needed.sketch and not self._options.always_inspect
                judged = seen is not None and needed.inspection  # nobody can judge what is not to be seen
                parts += shown.shown(number, following if decides else None, droppable=not judged)
                number += 1
            if seen is not None:
                # An example of inspection alone may end where nothing is wrong or to come: there is nothing to go on with.
                done = n == len(trace.steps) - 1 and seen.ok and not seen.deferred
                after: Then = "stop" if ends or done else "text"
                said = inspection_text(seen)
                learned = needed.inspection
                parts.append(self._learner.text(said, learn=learned, then=after if learned else None))
            looked = seen is not None
        return droppable_conditions(parts)

    def _planned_at_once(self, trace: PlanTrace, shown: Pictures) -> Sample:
        """All plans, then the last picture, at which nobody looks.

        Raises:
            UserError: the trace has no last picture.
        """
        if trace.final is None:
            raise UserError(
                f'{trace.key}: found a trace that is not finished; sketches = "last" needs last pictures, as those of '
                'data.categories = ["multi-turn"] have'
            )
        parts: list[Part] = [self._learner.text(PREFIX + trace.prompt, then="text")]
        for n, step in enumerate(trace.steps, 1):
            parts.append(self._learner.text(plan_text(step), learn=True, then="image" if n == len(trace.steps) else "text"))
        parts += [shown.noised(0), *shown.shown(0, "stop")]
        return droppable_conditions(parts)

    def _plan(self, step: PlanStep, free: bool) -> list[Part]:
        """A plan; where `free`, its first token, which tells it from an inspection, is not learned."""
        then: Then = "image" if step.sketch is not None else "text"
        learned = step.need_loss.plan
        whole = self._learner.text(plan_text(step), learn=learned, then=then if learned else None)
        if not (free and learned):
            return [whole]
        return [Text(whole.ids[:1], closes=False), replace(whole, ids=whole.ids[1:], opens=False)]

    def preview(self, dataset: Dataset[PlanTrace], folder: Path, step: int) -> Mapping[str, Any]:
        """Filmstrips of what it makes of unseen prompts; scores where the recipe asks for some."""
        wanted = self._recipe.evaluate.preview_pairs
        traces = [dataset[i] for i in range(min(len(dataset), max(PREVIEWED, wanted)))]
        made = self.trajectories([t.prompt for t in traces])
        strips = [(f"{t.prompt} ({m.why})", frames_of(m)) for t, m in zip(traces, made, strict=True)]
        filmstrips(strips[:PREVIEWED]).save(folder / f"step-{step:06d}.png")
        return {"scores": self._losses(traces[:wanted]) | score_trajectories(made[:wanted])} if wanted else {}

    def evaluate(self, dataset: Dataset[PlanTrace], folder: Path) -> Mapping[str, Any]:
        """Losses, the form of what it writes, and GenEval in the lab of last pictures where the recipe names a judge."""
        traces = [dataset[i] for i in range(min(self._recipe.evaluate.pairs, len(dataset)))]
        scores, by_category = self._losses(traces), dict[str, float]()
        if self._detector is None:
            scores |= score_trajectories(self.trajectories([t.prompt for t in traces]))
        else:
            asked = bench_prompts(len(traces))
            made = self.trajectories([a["prompt"] for a in asked])
            scores |= score_trajectories(made)
            pictures = [m.last_picture(self._recipe.data.resolution) for m in made]
            found, by_category = score_scenes(folder / "evaluation", asked, pictures, self._detector)
            scores |= found
        return {"scores": scores | {"n": len(traces)}, "by_category": by_category}

    @torch.no_grad()
    def trajectories(self, prompts: Sequence[str]) -> list[Trajectory]:
        """What the network writes and draws for each prompt, going on as it decides, with the recipe's guidance."""
        parts, side = self._parts, self._recipe.data.resolution
        how = drawing(self._recipe.evaluate, self._options)
        writing, limits = Writing(max_tokens=self._options.max_text), Limits(images=self._options.max_pictures)
        made: list[Trajectory] = []
        for session in self.sessions([PREFIX + prompt for prompt in prompts]):
            those = [Trajectory() for _ in session.parts]
            for event in generate(session, parts.codec, parts.sizes, (side, side), writing, how, limits):
                if isinstance(event, Wrote):
                    those[event.row].add_text(decode(parts.tokenizer, event.ids))
                elif isinstance(event, Drew):
                    those[event.row].add_picture(event.pixels_CHW)
                elif isinstance(event, Stopped):
                    those[event.row].why, those[event.row].by_itself = event.why, event.why == SAID_SO
            made += those
        return made

    def _losses(self, traces: Sequence[PlanTrace]) -> dict[str, float]:
        """At the same noise in every preview; traces of as many pictures go together."""
        by_count: dict[int, list[int]] = {}
        for i, trace in enumerate(traces):
            by_count.setdefault(len(self.pictures_of(trace)), []).append(i)
        size = self._recipe.evaluate.batch_size
        together = [some for numbers in by_count.values() for _, some in chunks(numbers, size)]
        return self._learner.score(self.unseen([traces[i] for i in some], some) for some in together)


def droppable_conditions(parts: Sequence[Part]) -> Sample:
    """The sequence in which only that may be dropped which guides a picture: texts it is drawn from, and pictures before it."""
    found: list[Part] = []
    later = from_here = False  # whether a picture is drawn later; whether before another one is shown
    for part in reversed(parts):
        if isinstance(part, NoisedImage):
            later = from_here = True
        elif isinstance(part, Text):
            part = replace(part, droppable=from_here)
        elif not isinstance(part, Gap):
            from_here = False
            part = replace(part, droppable=part.droppable and later)
        found.append(part)
    return found[::-1]
