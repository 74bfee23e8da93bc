"""Pre-training a BAGEL (arXiv:2505.14683, section 4): one network learns to draw, to describe, to answer and to edit.

A captioned picture becomes one of four lessons, drawn anew each time:

    draw      caption -> picture
    caption   picture -> caption
    question  picture, question -> answer
    fit       picture, prompt -> whether it fits

and an edit pair one of drawing: source, instruction -> target. Questions and prompts come from the facts that a world knows of
its pictures; pictures without such facts are drawn and described alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import torch
from PIL import Image
from pydantic import Field, model_validator

from editkit.data.draws import Draws
from editkit.data.examples import CaptionedImage, Dataset, EditPair, Example
from editkit.data.pictures import Picture
from editkit.data.prepare import prepare, prepared, to_image, to_network
from editkit.evaluate.benches.scene_bench import bench_prompts, score_scenes
from editkit.evaluate.captions import count_true_captions
from editkit.evaluate.pictures import pair_sheet
from editkit.lab.scene_questions import Graph, ask_about, ask_whether_it_fits
from editkit.lab.scene_texts import world_texts
from editkit.methods.interleaved import InterleavedOptions, Pictures, WholeBagel, chunks, drawing
from editkit.methods.protocol import Batch
from editkit.models.bagel.codec import vit_view
from editkit.models.bagel.load import BagelParts
from editkit.models.bagel.parts import Part, Sample, SeenImage
from editkit.models.bagel.session import Session, Writing
from editkit.models.bagel.tokenizer import decode
from editkit.recipe.schema import Recipe, Section

PREVIEWED = 24  # pictures of a sheet
WORLD_TEXTS = 2_000  # questions, and traces, for a new tokenizer
ANSWER, CAPTION = Writing(max_tokens=8), Writing(max_tokens=96)

Share = Annotated[float, Field(ge=0)]


class Lessons(Section):
    """How often each is drawn for a captioned picture, as any numbers in proportion.

    With edit pairs mixed in at weight w the published generation : understanding of 4 : 1 is (draw + w) : (the rest), where the
    four add up to 1.
    """

    draw: Share = 0.8
    caption: Share = 0.08
    question: Share = 0.06
    fit: Share = 0.06

    @model_validator(mode="after")
    def _something(self) -> Lessons:
        if not self.draw + self.caption:
            raise ValueError("found draw = 0 and caption = 0; expected one above 0, for pictures without facts have no others")
        return self

    def choose(self, u: float, facts: bool) -> str:
        """The lesson of a uniform number in [0, 1), of those that there are."""
        weights = {name: getattr(self, name) for name in ("draw", "caption", *(("question", "fit") if facts else ()))}
        u *= sum(weights.values())
        for name, weight in weights.items():
            if u < weight:
                return name
            u -= weight
        return next(name for name, weight in reversed(weights.items()) if weight)  # rounding


@dataclass(frozen=True, slots=True)
class Known:
    """What is true of a captioned picture: its scene graph, and the line of GenEval's prompt file that it was drawn for."""

    graph: Graph
    asked: dict[str, Any]


class Unified(WholeBagel):
    """Four lessons of captioned pictures, and edits where they are mixed in."""

    class Options(InterleavedOptions):
        """The further keys of `[method]`."""

        lessons: Lessons = Lessons()

    kind = "captioned_images"
    mixes = ("edit_pairs",)

    def __init__(self, recipe: Recipe, options: Options, parts: BagelParts) -> None:
        super().__init__(recipe, options, parts)
        self._options = options

    @staticmethod
    def further_texts() -> Iterator[str]:
        """Questions with their answers, and what plan traces are written in, so that a fine-tuning finds whole words."""
        yield from world_texts(WORLD_TEXTS)

    def pictures_of(self, example: Example) -> Sequence[Picture]:
        return (example.source, example.target) if isinstance(example, EditPair) else (example.image,)

    def texts_of(self, example: Example) -> tuple[str, ...]:
        return example.instructions if isinstance(example, EditPair) else example.captions

    def targets_of(self, example: Example) -> Mapping[str, Any]:
        return {"known": _known(example) if isinstance(example, CaptionedImage) else None}

    def samples(self, batch: Batch, draws: Draws) -> list[Sample]:
        """The sequence of each example, in a lesson drawn for it."""
        lesson_B, seed_B = draws.uniform().tolist(), draws.integers(2**31).tolist()
        pictures = self._learner.pictures(batch, draws)
        edits = batch["pictures"].shape[1] == 2
        samples: list[Sample] = []
        for shown, text, known, u, seed in zip(pictures, batch["text"], batch["known"], lesson_B, seed_B, strict=True):
            lesson = "edit" if edits else self._options.lessons.choose(u, known is not None)
            samples.append(self.sample(lesson, shown, text, known, Random(seed)))
        return samples

    def sample(self, lesson: str, shown: Pictures, text: str, known: Known | None, rng: Random) -> Sample:
        """The sequence of a lesson.

        Args:
            lesson: "edit", or one of `Lessons`.
            shown: the picture, or source and target of an edit.
            text: caption or instruction.
            known: of the picture; "question" and "fit" need it.
            rng: for questions and prompts.
        """
        learner = self._learner
        if lesson == "edit":
            return [*shown.shown(0), learner.text(text, then="image", droppable=True), shown.noised(1)]
        if lesson == "draw":
            return [learner.text(text, then="image", droppable=True), shown.noised(0)]
        if lesson == "caption":
            return [shown.seen(0, then="text"), learner.text(text, learn=True, then="stop")]
        assert known is not None
        if lesson == "question":
            question, answer = ask_about(rng, known.graph, False)
        else:
            question, answer = ask_whether_it_fits(rng, known.asked, known.graph, False)
        return [shown.seen(0), learner.text(question, then="text"), learner.text(answer, learn=True, then="stop")]

    def preview(self, dataset: Dataset[CaptionedImage], folder: Path, step: int) -> Mapping[str, Any]:
        """A sheet of pictures for unseen prompts, each beside a true one; scores where the recipe asks for some."""
        wanted = self._recipe.evaluate.preview_pairs
        examples = [dataset[i] for i in range(min(len(dataset), max(PREVIEWED, wanted)))]
        shown = examples[:PREVIEWED]
        rows = zip(shown, self.draw([e.captions[0] for e in shown]), strict=True)
        sheet = pair_sheet([(prepared(e.image.open(), self._params), made, e.captions[0]) for e, made in rows])
        sheet.save(folder / f"step-{step:06d}.png")
        return {"scores": self._losses(examples[:wanted]) | self._understanding(examples[:wanted])} if wanted else {}

    def evaluate(self, dataset: Dataset[CaptionedImage], folder: Path) -> Mapping[str, Any]:
        """Losses, what it says of unseen pictures, and GenEval in the lab where the recipe names a judge."""
        examples = [dataset[i] for i in range(min(self._recipe.evaluate.pairs, len(dataset)))]
        scores = self._losses(examples) | self._understanding(examples)
        by_category: dict[str, float] = {}
        if self._detector is not None:
            asked = bench_prompts(len(examples))
            made = self.draw([a["prompt"] for a in asked])
            found, by_category = score_scenes(folder / "evaluation", asked, made, self._detector)
            scores |= found
        return {"scores": scores | {"n": len(examples)}, "by_category": by_category}

    @torch.no_grad()
    def draw(self, prompts: Sequence[str]) -> list[Image.Image]:
        """A picture for each prompt, with the recipe's guidance."""
        side = self._recipe.data.resolution // self._parts.sizes.latent.px
        how = drawing(self._recipe.evaluate, self._options)
        made: list[Image.Image] = []
        for session in self.sessions(prompts):
            latents_BCHW = session.draw(range(len(session.parts)), (side, side), how)
            made += [to_image(x_CHW) for x_CHW in self._parts.codec.decode(latents_BCHW)]
        return made

    @torch.no_grad()
    def say(self, samples: Sequence[Sequence[Part]], writing: Writing) -> list[str]:
        """What it writes behind each beginning, always the likeliest token."""
        said: list[str] = []
        for _, chunk in chunks(samples, self._recipe.evaluate.batch_size):
            session = Session(self._parts.network, self._parts.tokens, chunk, range(len(chunk)))
            for _ in session.write(range(len(chunk)), writing):
                pass
            said += [decode(self._parts.tokenizer, getattr(parts[-1], "ids", ())) for parts in session.parts]
        return said

    def _losses(self, examples: Sequence[CaptionedImage]) -> dict[str, float]:
        """At the same noise and in the same lessons in every preview."""
        size = self._recipe.evaluate.batch_size
        return self._learner.score(self.unseen(some, range(first, first + len(some))) for first, some in chunks(examples, size))

    def _understanding(self, examples: Sequence[CaptionedImage]) -> dict[str, float]:
        """Shares of unseen pictures that are described truly, and of questions and prompts that are answered rightly."""
        known = [(e, k) for e in examples if (k := _known(e)) is not None]
        if not known:
            return {}
        seen = [self._seen(e) for e, _ in known]
        captions = self.say([[s] for s in seen], CAPTION)
        scores = {"captions_true": count_true_captions(captions, [k.graph for _, k in known]) / len(known)}
        for name in ("answers_right", "fits_right"):
            asked = []
            for i, (_, k) in enumerate(known):
                rng = Random(f"{self._recipe.evaluate.seed}/{name}/{i}")
                about = ask_about(rng, k.graph, True) if name == "answers_right" else None
                asked.append(about or ask_whether_it_fits(rng, k.asked, k.graph, True))
            begun = [[s, self._learner.text(question)] for s, (question, _) in zip(seen, asked, strict=True)]
            said = self.say(begun, ANSWER)
            scores[name] = sum(a == b for a, (_, b) in zip(said, asked, strict=True)) / len(asked)
        return scores

    def _seen(self, example: CaptionedImage) -> SeenImage:
        pixels_CHW = to_network(prepare([example.image.open()], self._params))[0]
        return SeenImage(vit_view(pixels_CHW, self._parts.sizes.vit))


def _known(example: CaptionedImage) -> Known | None:
    if not (example.facts.get("graph") and example.facts.get("geneval")):
        return None
    return Known(json.loads(example.facts["graph"]), json.loads(example.facts["geneval"]))
