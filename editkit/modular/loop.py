"""The loop of plan, sketch, inspect and refine over models that know nothing of each other, with a keep-the-best guard.

After the training-free rows of "Think in Strokes, Not Pixels" (arXiv:2604.04746, table 4), where a planner or an inspector
that is a model of its own helps one that draws. In a trajectory every picture is drawn from the one right before it; where
the loop goes back to an earlier picture, a step says so and shows it again, so that a trace can be read, and learned from,
line by line.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from editkit.data.draws import picture_seed
from editkit.data.pictures import Picture, png_bytes
from editkit.data.traces import Inspection, PlanStep, PlanTrace, inspection_text, plan_text
from editkit.errors import UserError
from editkit.evaluate.plan_folder import BEGIN, GO_ON
from editkit.models.generator import Drawn, Ended, Noted, Said, Step, Tick
from editkit.models.generator import Generator as PictureGenerator
from editkit.modular.budget import BudgetSpent, Meter
from editkit.modular.editors import Editor
from editkit.modular.options import Beginning, Budget
from editkit.modular.roles import Inspector, Plan, Planner

NO_PLAN = "the planner gave no usable plan"
NO_VERDICT = "the inspector gave no usable verdict; the picture stays as it is"
DONE = "the plan is done"


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn, and the seed of the trajectory."""

    text_guidance: float | None
    image_guidance: float | None
    steps: int
    seed: int
    after_step: Tick | None


@dataclass(eq=False)
class Seen:
    """A picture of the trajectory; compared by identity.

    Attributes:
        picture: RGB.
        number: among the pictures that were saved, from 1.
        verdict: of the inspector against the plan of now; None = nobody looked, or no usable verdict came.
    """

    picture: Image.Image
    number: int
    verdict: Inspection | None = None

    @property
    def stands(self) -> bool:
        """Whether nothing is known against it."""
        return self.verdict is None or self.verdict.ok


class ModularPlanner:
    """Draws in steps, as `editkit.models.generator.Planner` says.

    Args:
        planner, inspector, editor: the models; without an inspector every draft stays.
        start: the picture to begin with; None = nothing is drawn yet.
        generator: draws the first step where there is no `start`; None = the editor does, on an empty canvas.
        beginning: its canvas.
        budget, meter: how far it may go.
    """

    def __init__(
        self,
        planner: Planner,
        inspector: Inspector | None,
        editor: Editor,
        *,
        start: Image.Image | None,
        generator: PictureGenerator | None,
        beginning: Beginning,
        budget: Budget,
        meter: Meter,
    ) -> None:
        self.planner, self.inspector, self.editor, self.meter = planner, inspector, editor, meter
        self.start, self.generator, self.beginning, self.budget = start, generator, beginning, budget
        self.defaults = editor.defaults

    def steps(
        self,
        prompt: str,
        *,
        text_guidance: float | None,
        image_guidance: float | None,
        steps: int,
        seed: int,
        after_step: Tick | None = None,
    ) -> Iterator[Step]:
        """Plans, sketches and verdicts as they come; the last one is `Ended`, with the best picture shown last before it.

        Args:
            prompt: what is to be drawn.
            text_guidance, image_guidance, steps: of the editor, as its pictures are sampled.
            seed: of all random numbers.
            after_step: called after each sampling step.

        Raises:
            UserError: an endpoint refuses or stays away; after `Ended`, where something was drawn before.
        """
        how = Sampling(text_guidance, image_guidance, steps, seed, after_step)
        yield from _Trajectory(self, prompt, how).run()

    def about(self) -> dict[str, Any]:
        """Who takes part, for what is saved."""
        first = "a given picture" if self.start is not None else self.beginning.generator or "an empty canvas"
        inspector = self.inspector.name if self.inspector is not None else None
        return {"planner": self.planner.name, "inspector": inspector, "editor": self.editor.about, "start": first}


class _Trajectory:
    """One of them, from the plan to the end."""

    def __init__(self, models: ModularPlanner, prompt: str, how: Sampling) -> None:
        self._models, self._prompt, self._how = models, prompt, how
        self._planned: list[PlanStep] = []  # steps of the plan, without those that mend or go back
        self._pictures = 0
        self._last: Seen | None = None  # in the trace
        self._now: Seen | None = None  # the best so far: what the next step begins with

    def run(self) -> Iterator[Step]:
        """See `ModularPlanner.steps`."""
        self._models.meter.begin()
        try:
            why = yield from self._draw()
        except BudgetSpent as spent:
            yield from self._end(f"budget: {spent}", by_itself=False)
        except UserError as error:
            if self._last is not None:
                yield from self._end(f"failed: {str(error).splitlines()[0]}", by_itself=False)
            raise
        else:
            yield from self._end(why, by_itself=why == DONE)

    def _draw(self) -> Generator[Step, None, str]:
        """Draws the plan and returns why it is at its end."""
        models, budget = self._models, self._models.budget
        start = models.start
        given = Picture(data=png_bytes(start), label="the picture to begin with") if start is not None else None
        plan: Plan | None = models.planner.plan(self._prompt, given, budget.steps, self._how.seed)
        if plan is None:
            yield Noted(NO_PLAN)
            return NO_PLAN
        if start is not None:
            self._now = Seen(start, self._pictures + 1)
            yield Said(plan_text(PlanStep(BEGIN, "what is given", None)))
            yield from self._show(self._now, kept=True)
        for ins, des in plan[: budget.steps]:
            yield from self._step(ins, des)
        if len(plan) > budget.steps:
            return f"budget: {budget.steps} of {len(plan)} steps of the plan"
        verdict = self._now.verdict if self._now is not None else None
        if verdict is None:
            return DONE if models.inspector is None else f"{DONE}; nobody could judge its last picture"
        left = [*verdict.issues, *(f"still to come: {item}" for item in verdict.deferred)]
        return f"{DONE}; what is left: {'; '.join(left)}" if left else DONE

    def _step(self, ins: str, des: str) -> Iterator[Step]:
        """Draws a step of the plan, and mends it as far as the budget goes."""
        before = self._now
        self._models.meter.before_drawing()
        if before is not None and (self._last is not before or not before.stands):
            # Also where the picture is the last one: what was to be mended in it is not what the next step does.
            yield from self._go_on_with(before, self._planned[-1].des, verdict=False)
        self._planned.append(PlanStep(ins, des, None))
        draft = yield from self._sketch(before, ins, des)
        self._now = draft  # it stands as long as nobody has looked
        yield from self._look_at(draft)
        if draft.verdict is None or draft.verdict.ok:
            return
        best = draft
        # A change that was not made is one issue; more of them may mean that the draft has lost what was there before.
        if before is not None and len(draft.verdict.issues) > 1:
            verdict = self._verdict(before.picture)
            if verdict is not None and len(verdict.issues) < len(draft.verdict.issues):
                best = self._now = Seen(before.picture, before.number, verdict)
        yield from self._mend(best, des)

    def _mend(self, best: Seen, des: str) -> Iterator[Step]:
        """Refines the best picture of a step; another one takes its place only where it has fewer issues."""
        for _ in range(self._models.budget.refines):
            if best.verdict is None or best.verdict.ok:
                return
            self._models.meter.before_drawing()
            if self._last is not best:
                yield from self._go_on_with(best, des, verdict=True)
            refined = yield from self._sketch(best, best.verdict.refine, des)
            yield from self._look_at(refined)
            if refined.verdict is not None and len(refined.verdict.issues) < len(best.verdict.issues):
                best = self._now = refined

    def _sketch(self, before: Seen | None, ins: str, des: str) -> Generator[Step, None, Seen]:
        """Says what is drawn, draws it, and returns it."""
        yield Said(plan_text(PlanStep(ins, des, None)))
        models, how = self._models, self._how
        seed = picture_seed(how.seed, self._pictures) % 2**62  # torch takes no larger one
        if before is None and models.generator is not None:
            defaults = models.generator.defaults
            guidance, steps = defaults["text_guidance"], defaults["steps"]
            picture = models.generator.draw(des, text_guidance=guidance, steps=steps, seed=seed)
        else:
            side = models.beginning.resolution
            source = before.picture if before is not None else Image.new("RGB", (side, side), models.beginning.canvas)
            picture = models.editor.edit(
                source, ins, text_guidance=how.text_guidance, image_guidance=how.image_guidance, steps=how.steps, seed=seed,
                after_step=how.after_step,
            )  # fmt: skip
        made = Seen(picture, self._pictures + 1)
        yield from self._show(made)
        return made

    def _look_at(self, seen: Seen) -> Iterator[Step]:
        """Asks what is wrong with a picture, and says it."""
        if self._models.inspector is None:
            return
        seen.verdict = self._verdict(seen.picture)
        yield Said(inspection_text(seen.verdict)) if seen.verdict is not None else Noted(NO_VERDICT)

    def _verdict(self, picture: Image.Image) -> Inspection | None:
        inspector = self._models.inspector
        if inspector is None:
            return None
        last = self._planned[-1]
        shown = PlanStep(last.ins, last.des, Picture(data=png_bytes(picture), label=f"picture {self._pictures}"))
        trace = PlanTrace("trajectory", self._prompt, (*self._planned[:-1], shown), None)
        return inspector.inspect(trace, self._how.seed)

    def _go_on_with(self, seen: Seen, des: str, *, verdict: bool) -> Iterator[Step]:
        """Shows a picture of before again, with what was said of it where that is to be mended next."""
        yield Said(plan_text(PlanStep(f"{GO_ON}{seen.number}", des, None)))
        yield from self._show(seen, kept=True)
        if verdict and seen.verdict is not None:
            yield Said(inspection_text(seen.verdict))

    def _show(self, seen: Seen, kept: bool = False) -> Iterator[Step]:
        self._pictures += 1
        self._last = seen
        yield Drawn(seen.picture, kept=kept)

    def _end(self, why: str, *, by_itself: bool) -> Iterator[Step]:
        """Ends with the best that was seen."""
        best = self._now
        if best is not None and self._last is not best:
            yield from self._go_on_with(best, self._planned[-1].des, verdict=True)
        used = self._models.meter.used()
        spent = {"calls": used.calls, "tokens": used.tokens, "cost": used.cost, "seconds": round(self._models.meter.seconds, 1)}
        yield Ended(why, by_itself, {"best": best.number if best else None, "spent": spent, "back_ends": self._models.about()})
