"""Drawing from words with a trained model, at once or in steps: what `editkit generate` asks of the families that can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from editkit.data.draws import picture_seed
from editkit.data.prepare import to_image
from editkit.data.traces import PREFIX
from editkit.diffusion.timesteps import Timesteps
from editkit.errors import UserError
from editkit.models import METADATA
from editkit.models.adapters import is_adapter
from editkit.models.bagel.generate import SAID_SO, Drew, Limits, Sampled, Stopped, Token, Wrote, generate, look_at
from editkit.models.bagel.load import NETWORK, BagelParts
from editkit.models.bagel.load import Options as BagelOptions
from editkit.models.bagel.load import load as load_bagel
from editkit.models.bagel.parts import Part, Text, Then
from editkit.models.bagel.released import is_released
from editkit.models.bagel.session import Drawing, Session, Writing
from editkit.models.bagel.tokenizer import decode, encode
from editkit.models.callbacks import on_step_end
from editkit.models.locate import locate_trained, read_metadata
from editkit.models.stable_diffusion.forward import sample_latents
from editkit.models.stable_diffusion.load import Options, StableDiffusion, load
from editkit.recipe.load import load_recipe

PLANS, EDITS = "plan_refine", "instruct_edit"  # the method whose runs plan, and the one whose runs edit
DRAWING = ("text_to_image", "unified", PLANS)
EXPECTED = "expected a model that draws, such as lab:tiny-sd or a run of recipes/lab/tiny_bagel.toml"
Tick = Callable[[], None]  # called after each sampling step


@dataclass(frozen=True, slots=True)
class Letters:
    """What was written since the last ones; what may still become another letter is held back."""

    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """A text came to its end.

    Attributes:
        text: with all its letters.
        ids: the tokens in which the model wrote it, which need not be those of the text read anew; None = a person wrote it.
    """

    text: str
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture came to its end.

    Attributes:
        picture: in 8 bits a channel.
        pixels_CHW: the same as it was drawn, in [-1, 1], on the CPU: what the model goes on from; None of one that goes on from
            pictures in 8 bits.
        kept: whether it is one of before, with which it goes on.
    """

    picture: Image.Image
    pixels_CHW: torch.Tensor | None = field(default=None, compare=False, repr=False)
    kept: bool = False

    @property
    def exact(self) -> torch.Tensor:
        """`pixels_CHW` of a picture that a network is to go on from.

        Raises:
            ValueError: it has none.
        """
        if self.pixels_CHW is None:
            raise ValueError("a picture in 8 bits; expected one as a network drew it")
        return self.pixels_CHW


@dataclass(frozen=True, slots=True)
class Noted:
    """Something to be known that is no part of a trace."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more comes.

    Attributes:
        why: in words.
        by_itself: whether the model said so.
        facts: what else the summary states.
    """

    why: str
    by_itself: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


Step = Letters | Said | Sampled | Drawn | Noted | Ended


class Generator(Protocol):
    """A model that draws.

    Attributes:
        defaults: "steps", "text_guidance", of a planner "image_guidance", and "resolution" in px.
    """

    defaults: dict[str, Any]

    def draw(self, prompt: str, *, text_guidance: float, steps: int, seed: int, after_step: Tick | None = None) -> Image.Image:
        """An RGB picture of the model's resolution."""
        ...


class Planner(Protocol):
    """What draws in steps: one network, or several models that work together.

    Attributes:
        defaults: "steps", "text_guidance" and "image_guidance".
    """

    defaults: dict[str, Any]

    def steps(
        self, prompt: str, *, text_guidance: float, image_guidance: float, steps: int, seed: int, after_step: Tick | None = None
    ) -> Iterator[Step]:
        """See `BagelGenerator.steps`."""
        ...


class StableDiffusionGenerator:
    """Draws as the stock text-to-image pipeline does."""

    def __init__(self, parts: StableDiffusion, resolution: int, steps: int = 20, text_guidance: float = 7.5) -> None:
        self._parts = parts
        self.defaults: dict[str, Any] = {"steps": steps, "text_guidance": text_guidance, "resolution": resolution}

    @torch.no_grad()
    def draw(self, prompt: str, *, text_guidance: float, steps: int, seed: int, after_step: Tick | None = None) -> Image.Image:
        """See `Generator.draw`."""
        from diffusers import StableDiffusionPipeline  # slow, and the other family does not need it

        pipeline = self._parts.pipeline(StableDiffusionPipeline)
        pipeline.set_progress_bar_config(disable=True)
        tell = on_step_end(lambda _: after_step() if after_step is not None else None)
        side = self.defaults["resolution"]
        made = pipeline(
            [prompt], num_inference_steps=steps, guidance_scale=text_guidance, output_type="pt", height=side, width=side,
            latents=sample_latents(self._parts, 1, side, seed), callback_on_step_end=tell,
        ).images  # fmt: skip
        return to_image(made[0] * 2 - 1)


class BagelGenerator:
    """Draws at once, or writes, draws and looks in steps as the network decides.

    Args:
        parts: on their device, in evaluation mode.
        resolution: of the pictures, px.
        drawing: how, unless a call says otherwise.
        writing: how texts are sampled.
        limits: how far it may go.
        plans: whether it was trained to draw in steps.
    """

    def __init__(
        self, parts: BagelParts, resolution: int, drawing: Drawing, writing: Writing, limits: Limits, *, plans: bool = False
    ) -> None:
        self._parts, self._drawing, self._writing, self._limits = parts, drawing, writing, limits
        self.plans = plans
        guidance = {"text_guidance": drawing.text_scale, "image_guidance": drawing.image_scale}
        self.defaults: dict[str, Any] = {"steps": drawing.steps, **guidance, "resolution": resolution}

    @torch.no_grad()
    def draw(self, prompt: str, *, text_guidance: float, steps: int, seed: int, after_step: Tick | None = None) -> Image.Image:
        """See `Generator.draw`."""
        parts = self._parts
        how = replace(self._drawing, steps=steps, text_scale=text_guidance)
        latents_BCHW = self._begin(prompt, seed).draw([0], self._latent_size, how, after_step)
        return to_image(parts.codec.decode(latents_BCHW)[0])

    @torch.no_grad()
    def steps(
        self,
        prompt: str,
        *,
        text_guidance: float,
        image_guidance: float,
        steps: int,
        seed: int,
        after_step: Tick | None = None,
        begun: Sequence[Said | Drawn] = (),
        then: Then | None = None,
    ) -> Iterator[Step]:
        """Plans, sketches and verdicts as they come; the last one is `Ended`.

        What goes on from the beginning of a trajectory is what followed there, under the same seed and sampling: the n-th
        picture has the same noise, whatever stands before it.

        Args:
            prompt: what is to be drawn.
            text_guidance: how strongly the plan counts; 1 = not beyond the prediction itself.
            image_guidance: how strongly the pictures before count.
            steps: sampling steps of a picture.
            seed: of all random numbers.
            after_step: called after each sampling step, for those who do not look at `Sampled`.
            begun: the texts and pictures to go on from, as they came or as a person changed them.
            then: what it goes on with first; None = as the network wants. Who decides it gets a plan, a picture and a verdict
                at least, beyond the recipe's limits too.
        """
        parts, side = self._parts, self.defaults["resolution"]
        how = replace(self._drawing, steps=steps, text_scale=text_guidance, image_scale=image_guidance)
        session = self._begin(PREFIX + prompt, seed, begun)
        first = iter([then] if then else [])
        ids: list[int] = []
        shown = 0
        for event in generate(
            session, parts.codec, parts.sizes, (side, side), self._writing, how, self._left(begun, then),
            decide=lambda _, wanted, __: next(first, wanted),
        ):  # fmt: skip
            if isinstance(event, Token):
                ids.append(event.id)
                # A letter of several bytes is no letter until its last token is there.
                text = decode(parts.tokenizer, ids).rstrip("\N{REPLACEMENT CHARACTER}")
                if len(text) > shown:
                    yield Letters(text[shown:])
                    shown = len(text)
            elif isinstance(event, Wrote):
                ids, shown = [], 0
                yield Said(decode(parts.tokenizer, event.ids), event.ids)
            elif isinstance(event, Drew):
                yield Drawn(to_image(event.pixels_CHW), event.pixels_CHW.cpu())
            elif isinstance(event, Sampled):
                if after_step is not None:
                    after_step()
                yield event
            elif isinstance(event, Stopped):
                yield Ended(event.why, event.why == SAID_SO)

    @property
    def settings(self) -> tuple[BagelParts, Drawing, Writing, Limits]:
        """The model, and how it draws, writes and stops where a call says nothing else."""
        return self._parts, self._drawing, self._writing, self._limits

    @property
    def _latent_size(self) -> tuple[int, int]:
        side = self.defaults["resolution"] // self._parts.sizes.latent.px
        return side, side

    def _begin(self, text: str, seed: int, begun: Sequence[Said | Drawn] = ()) -> Session:
        return begin_session(self._parts, [(text, begun)], [seed], self._latent_size)

    def _left(self, begun: Sequence[Said | Drawn], then: Then | None) -> Limits:
        """How far it may still go."""
        images, parts = max(0, self._limits.images - _pictures(begun)), max(0, self._limits.parts - len(begun))
        return Limits(images, parts) if then is None else Limits(max(1, images), max(3, parts))


def begin_session(
    parts: BagelParts,
    beginnings: Sequence[tuple[str, Sequence[Said | Drawn]]],
    seeds: Sequence[int],
    latent_size: tuple[int, int],
) -> Session:
    """What reads texts, and what was begun behind each, in one pass.

    Args:
        parts: the model.
        beginnings: (text, the texts and pictures behind it) of each row.
        seeds: of the rows; the n-th picture has the same noise, whatever stands before it.
        latent_size: height and width of a picture's latents.
    """
    device = parts.network.embed_tokens.weight.device
    samples: list[list[Part]] = []
    for text, begun in beginnings:
        sample: list[Part] = [Text(encode(parts.tokenizer, text))]
        for part in begun:
            if isinstance(part, Said):
                sample.append(Text(encode(parts.tokenizer, part.text) if part.ids is None else part.ids))
            else:
                sample += look_at(part.exact.to(device), parts.codec, parts.sizes)
        samples.append(sample)
    # As previews count: the picture of a first prompt under evaluate.seed.
    session = Session(parts.network, parts.tokens, samples, [picture_seed(seed, 0) for seed in seeds])
    for row, (_, begun) in enumerate(beginnings):
        session.skip_noise(row, _pictures(begun), latent_size)
    return session


def _pictures(begun: Sequence[Said | Drawn]) -> int:
    return sum(isinstance(part, Drawn) for part in begun)


def load_generator(run: str, *, device: torch.device | None = None) -> Generator:
    """Loads a model that draws.

    Args:
        run: a run, "latest", "lab:NAME", a folder in the stock layout, or a Hub id.
        device: where it computes; None = the CPU.

    Raises:
        UserError: there is none, or it does something else.
    """
    folder, facts = _find(run)
    if _is_bagel(folder):
        return _bagel(folder, facts, device)
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{run}: found neither a Stable Diffusion nor a BAGEL in {folder}; {EXPECTED}")
    parts = load(str(folder), Options())
    if parts.unet.config["in_channels"] != parts.latent_channels:
        raise _edits(run)
    for module in parts.modules.values():
        module.to(device or "cpu").eval()
    resolution = _resolution(facts) or parts.unet.config["sample_size"] * parts.vae_scale
    stated = {k: v for k, v in facts.get("sampling", {}).items() if k in ("steps", "text_guidance")}
    return StableDiffusionGenerator(parts, resolution, **stated)


def load_planner(run: str, *, device: torch.device | None = None) -> BagelGenerator:
    """Loads a model that draws in steps; see `load_generator`.

    Raises:
        UserError: there is none, or it was not trained to.
    """
    folder, facts = _find(run)
    method = facts.get("method")
    if method != PLANS or not _is_bagel(folder):
        found = f'a model that was trained by "{method}"' if method else f"no {METADATA} that says it was trained to plan"
        raise UserError(f"{run}: found {found}; --plan needs a run of recipes/plan_refine.toml; leave it out to draw at once")
    return _bagel(folder, facts, device)


def _find(run: str) -> tuple[Path, dict[str, Any]]:
    """The folder of the weights, and what is stated beside them."""
    folder = locate_trained(run, ("model", "adapter"))
    facts = read_metadata(folder)
    method = facts.get("method", "")
    if method == EDITS or (not method and is_adapter(folder)):
        raise _edits(run)
    if method and method not in DRAWING:
        raise UserError(f'{run}: found a model that was trained by "{method}", which draws nothing; {EXPECTED}')
    return folder, facts


def _edits(run: str) -> UserError:
    return UserError(f'{run}: found an editor, which needs a picture; use editkit edit IMAGE "instruction" --run {run}')


def _is_bagel(folder: Path) -> bool:
    return (folder / NETWORK / "config.json").is_file() or is_released(folder)


def _resolution(facts: Mapping[str, Any]) -> int:
    return facts.get("prepare", {}).get("resolution", 0)


def _bagel(folder: Path, facts: Mapping[str, Any], device: torch.device | None) -> BagelGenerator:
    """With the guidance that is stated beside the weights, and what the method's recipe says of times and limits."""
    parts = load_bagel(str(folder), BagelOptions())
    for module in parts.modules.values():
        module.to(device or "cpu").eval()
    latent, stated = parts.sizes.latent, facts.get("sampling", {})
    names = {"steps": "steps", "text_guidance": "text_scale", "image_guidance": "image_scale"}
    drawing = replace(Drawing(), **{names[k]: v for k, v in stated.items() if k in names})
    writing, limits = Writing(), Limits()
    path = next((p for p in (folder / "recipe.toml", folder.parent / "recipe.toml") if p.is_file()), None)
    if path is not None:
        options = load_recipe(path)[0].method.options
        low, high = drawing.interval
        shift = Timesteps.model_validate(options.get("timesteps", {})).shift
        drawing = replace(drawing, shift=shift, interval=(options.get("guided_above", low), high))
        writing = replace(writing, max_tokens=options.get("max_text", writing.max_tokens))
        limits = replace(limits, images=options.get("max_pictures", limits.images))
    side = _resolution(facts) or latent.px * latent.patch * latent.side
    return BagelGenerator(parts, side, drawing, writing, limits, plans=facts.get("method") == PLANS)
