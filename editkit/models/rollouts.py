"""Many trajectories at once, from any beginning and under any rule of going on, with what each of them cost."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

import torch

from editkit.data.prepare import to_image
from editkit.data.traces import PREFIX, Inspection, inspection_text
from editkit.models.bagel.cost import Cost, Ledger
from editkit.models.bagel.generate import SAID_SO, Drew, Limits, Wrote, generate, look_at
from editkit.models.bagel.parts import NoisedImage, Part, Text, Then
from editkit.models.bagel.session import Drawing, Session
from editkit.models.bagel.tokenizer import decode, encode
from editkit.models.generator import BagelGenerator, Drawn, Said, begin_session

Made = Said | Drawn
Decide = Callable[[int, Then, Sequence[Made]], Then]  # number of the trajectory, what the network wants, all that it has
MAX_STEPS = 4096  # of a picture
MORE_PARTS = 4  # texts and pictures that a trajectory may have for each picture that it may draw


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a trajectory goes on from.

    Attributes:
        prompt: what is to be drawn.
        seed: of its random numbers; the n-th picture has the same noise, whatever stands before it.
        parts: texts and pictures behind the prompt.
        then: what it goes on with first; None = as the network wants.
    """

    prompt: str
    seed: int
    parts: tuple[Made, ...] = ()
    then: Then | None = None


@dataclass
class Rollout:
    """A trajectory.

    Attributes:
        begun: what it went on from.
        parts: all texts and pictures, those that it began with among them.
        why: it stopped.
        by_itself: whether the model said so.
    """

    begun: Beginning
    parts: list[Made] = field(default_factory=list)
    why: str = ""
    by_itself: bool = False

    @property
    def pictures(self) -> list[Drawn]:
        """The sketches."""
        return [part for part in self.parts if isinstance(part, Drawn)]


class Rollouts:
    """A planner that is asked many prompts at once.

    Args:
        planner: a model that draws in steps.
        batch: trajectories at once.
        temperature: of texts; 0 = always the likeliest token.
    """

    def __init__(self, planner: BagelGenerator, batch: int, temperature: float = 0.0) -> None:
        self._parts, self.drawing, writing, self.limits = planner.settings
        self._writing = replace(writing, temperature=temperature)
        self.side: int = planner.defaults["resolution"]
        self._batch = batch
        px = self._parts.sizes.latent.px
        self._latent_size = self.side // px, self.side // px
        nothing = torch.zeros(self._parts.sizes.latent.channels, *self._latent_size)
        self._noised = NoisedImage(nothing, nothing, 1.0)
        right, wrong = (self._ids(inspection_text(seen)) for seen in (Inspection(True), Inspection(False, issues=("it",))))
        common = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(right, wrong, strict=False))]
        self._verdict, self._right, self._wrong = common, right[len(common)], wrong[len(common)]

    @torch.no_grad()
    def roll(self, beginnings: Sequence[Beginning], decide: Decide | None = None, images: int | None = None) -> list[Rollout]:
        """Goes on from each beginning until it stops.

        Args:
            beginnings: of the trajectories.
            decide: what one goes on with; None = as the network wants.
            images: pictures that each may draw; None = as the recipe says. Those that it began with count.
        """
        most = self.limits.images if images is None else images
        found: list[Rollout] = []
        for first, some in self._chunks(beginnings):
            rolls = [Rollout(b, list(b.parts)) for b in some]
            pending: list[Then | None] = [b.then for b in some]

            def choose(row: int, wanted: Then, _: Sequence[Part], first: int = first, rolls=rolls, pending=pending) -> Then:
                then, pending[row] = pending[row], None
                roll = rolls[row]
                chosen = then or (decide(first + row, wanted, roll.parts) if decide is not None else wanted)
                full = "pictures" if chosen == "image" and len(roll.pictures) >= most else ""
                full = "parts" if chosen != "stop" and len(roll.parts) >= max(self.limits.parts, MORE_PARTS * most) else full
                if full or chosen == "stop":
                    roll.by_itself = not full and wanted == "stop"
                    roll.why = f"as many {full} as it may have" if full else SAID_SO if roll.by_itself else "was stopped"
                return "stop" if full else chosen

            self._go_on(rolls, choose)
            found += rolls
        return found

    def _go_on(self, rolls: Sequence[Rollout], choose: Callable[[int, Then, Sequence[Part]], Then]) -> None:
        parts = self._parts
        session = self._session([r.begun for r in rolls])
        no_limits = Limits(10**6, 10**6)  # `choose` knows how many there were before
        size = (self.side, self.side)
        for event in generate(session, parts.codec, parts.sizes, size, self._writing, self.drawing, no_limits, choose):
            if isinstance(event, Wrote):
                rolls[event.row].parts.append(Said(decode(parts.tokenizer, event.ids), event.ids))
            elif isinstance(event, Drew):
                rolls[event.row].parts.append(Drawn(to_image(event.pixels_CHW), event.pixels_CHW.cpu()))

    @torch.no_grad()
    def write(self, beginnings: Sequence[Beginning], words: str) -> list[Said]:
        """The text that each goes on with if it begins with these words."""
        begun = self._ids(words)
        said: list[Said] = []
        for _, some in self._chunks(beginnings):
            session = self._session(some)
            for _ in session.write(range(len(some)), self._writing, begun):
                pass
            ids = [tuple(getattr(parts[-1], "ids", ())) for parts in session.parts]
            said += [Said(decode(self._parts.tokenizer, one), one) for one in ids]
        return said

    @torch.no_grad()
    def draw(self, beginnings: Sequence[Beginning], drawing: Drawing, *, plan: bool = False) -> list[Drawn]:
        """A picture for each; without `plan` from the prompt alone, as `editkit generate` draws at once."""
        found: list[Drawn] = []
        for _, some in self._chunks(beginnings):
            session = self._session(some, PREFIX if plan else "")
            latents_BCHW = session.draw(range(len(some)), self._latent_size, drawing)
            pixels_BCHW = self._parts.codec.decode(latents_BCHW)
            found += [Drawn(to_image(x_CHW), x_CHW.cpu()) for x_CHW in pixels_BCHW]
        return found

    @torch.no_grad()
    def approve(self, beginnings: Sequence[Beginning]) -> list[float]:
        """How sure the model's own inspection is that the last picture of each is right, in [0, 1].

        p(right) / (p(right) + p(wrong)) of the token in which its two verdicts on a picture differ first.
        """
        found: list[float] = []
        for _, some in self._chunks(beginnings):
            session = self._session(some)
            session.add({row: [self._verdict_text] for row in range(len(some))})
            found += torch.tensor(session.log_odds(self._right, self._wrong)).sigmoid().tolist()
        return found

    def cost(self, rollout: Rollout, *, candidates: int = 1) -> Cost:
        """What a whole trajectory takes; what a hand wrote is read and not written.

        Args:
            rollout: with its beginning.
            candidates: pictures drawn for each that it has, all of them judged by `approve` where there are several.
        """
        ledger = Ledger(self._parts.sizes, [Text(self._ids(PREFIX + rollout.begun.prompt))])
        for number, part in enumerate(rollout.parts, 1):
            if isinstance(part, Said):
                text = Text(self._ids(part.text) if part.ids is None else part.ids)
                ledger.show([text]) if part.ids is None else ledger.write(text)
                continue
            copies = look_at(part.exact, self._parts.codec, self._parts.sizes)
            for _ in range(candidates):
                ledger.draw(self._noised, self.drawing)
                if candidates > 1:
                    ledger.glance([*copies, self._verdict_text])
            if candidates == 1 or number < len(rollout.parts):  # the last of several has been looked at already
                ledger.show(copies)
        return ledger.cost

    def cost_at_once(self, prompt: str, drawing: Drawing) -> Cost:
        """What a picture from the prompt alone takes."""
        ledger = Ledger(self._parts.sizes, [Text(self._ids(prompt))])
        ledger.draw(self._noised, drawing)
        return ledger.cost

    def steps_for(self, prompts: Sequence[str], flops: float) -> int:
        """The sampling steps with which a picture at once comes nearest to so many operations, on average over prompts."""

        def mean(steps: int) -> float:
            how = replace(self.drawing, steps=steps)
            return sum(self.cost_at_once(p, how).flops for p in prompts) / len(prompts)

        above = bisect_left(range(1, MAX_STEPS), flops, key=mean) + 1  # the fewest that take as much; more steps take more
        return min((steps for steps in (above - 1, above) if steps), key=lambda steps: abs(mean(steps) - flops))

    @property
    def _verdict_text(self) -> Text:
        return Text(self._verdict, closes=False)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(encode(self._parts.tokenizer, text))

    def _chunks(self, beginnings: Sequence[Beginning]) -> Iterator[tuple[int, Sequence[Beginning]]]:
        return ((n, beginnings[n : n + self._batch]) for n in range(0, len(beginnings), self._batch))

    def _session(self, beginnings: Sequence[Beginning], prefix: str = PREFIX) -> Session:
        texts = [(prefix + begun.prompt, begun.parts) for begun in beginnings]
        return begin_session(self._parts, texts, [begun.seed for begun in beginnings], self._latent_size)
