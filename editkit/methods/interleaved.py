"""What the methods that train a BAGEL share: pictures as parts of a sequence, the loss of sequences, what they are to the loop.

L = ce_weight * cross-entropy + mse_weight * squared error of the velocity (section 2.3 of arXiv:2505.14683), each as the mean
over the tokens of an example that have it, then over the examples: so a step does not depend on how it is cut into batches and
processes. The released trainer takes means over all tokens of all processes, where long examples count more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import nn

from editkit.data.buckets import make_buckets
from editkit.data.cache import Store
from editkit.data.draws import Draws, picture_seed
from editkit.data.examples import Dataset
from editkit.data.pictures import Picture
from editkit.data.prepare import PrepareParams, prepare, to_network
from editkit.diffusion.timesteps import Timesteps, draw_timesteps
from editkit.errors import UserError
from editkit.evaluate.benches.scene_bench import load_scene_judge
from editkit.methods.protocol import Batch, Loss, collate
from editkit.models.bagel.codec import vit_view
from editkit.models.bagel.cost import training_flops
from editkit.models.bagel.load import BagelParts
from editkit.models.bagel.loss import CE_WEIGHT, MSE_WEIGHT, SampleLosses, sample_losses
from editkit.models.bagel.packing import pack
from editkit.models.bagel.parts import (
    CleanImage,
    NoisedImage,
    Part,
    Sample,
    SeenImage,
    Text,
    Then,
    drop_conditions,
    fill_rows,
    one_per_row,
)
from editkit.models.bagel.session import Drawing, Session
from editkit.models.bagel.tokenizer import encode
from editkit.recipe.schema import Evaluate, Fraction, NonNegativeInt, Recipe, Section

T = TypeVar("T")

KEPT_TEXTS = 200_000  # whose tokens are remembered: the lab's data sets have about as many


class InterleavedOptions(Section):
    """The keys of `[method]` that these methods share."""

    ce_weight: Annotated[float, Field(ge=0)] = CE_WEIGHT
    mse_weight: Annotated[float, Field(ge=0)] = MSE_WEIGHT
    timesteps: Timesteps = Timesteps(name="logit_normal")  # one a picture; logit-normal, as published
    # For classifier-free guidance: see `coins`. With a text go its labels.
    drop_text: Fraction = 0.1
    drop_clean: Fraction = 0.1  # of latents of pictures that are conditions
    drop_seen: Fraction = 0.1  # of what the ViT sees of them
    row_tokens: NonNegativeInt = 0  # examples are packed into rows of so many tokens; 0 = a row an example
    guided_above: Annotated[float, Field(ge=0, lt=1)] = Drawing().interval[0]  # time down to which samples are guided


class Pictures:
    """The pictures of one example, as the parts of a sequence.

    Args:
        clean_NCHW: latents.
        noise_NCHW: eps, of the same shape.
        times: one a picture, in [0, 1].
        seen: what the ViT sees of each, pixels in [-1, 1].
    """

    def __init__(
        self, clean_NCHW: torch.Tensor, noise_NCHW: torch.Tensor, times: Sequence[float], seen: Sequence[torch.Tensor]
    ) -> None:
        self._clean_NCHW, self._noise_NCHW, self._times, self._seen = clean_NCHW, noise_NCHW, times, seen

    def noised(self, number: int) -> NoisedImage:
        """The copy on which the flow is learned."""
        return NoisedImage(self._clean_NCHW[number], self._noise_NCHW[number], self._times[number])

    def shown(self, number: int, then: Then | None = None, *, droppable: bool = True) -> list[Part]:
        """The two copies that what follows sees."""
        return [
            CleanImage(self._clean_NCHW[number], droppable=droppable),
            SeenImage(self._seen[number], then=then, droppable=droppable),
        ]

    def seen(self, number: int, then: Then | None = None) -> SeenImage:
        """What the ViT sees, where nothing is drawn; it is never dropped."""
        return SeenImage(self._seen[number], then=then)


class Interleaved:
    """A BAGEL and how it is trained.

    Args:
        recipe: of the run.
        options: of the method.
        parts: the model; its autoencoder, where it has one, is frozen.

    Raises:
        UserError: the recipe asks for an adapter, or for pictures that the network does not take.
    """

    def __init__(self, recipe: Recipe, options: InterleavedOptions, parts: BagelParts) -> None:
        if recipe.adapter is not None:
            raise UserError(f'[adapter]: found one; "{recipe.method.name}" trains the whole network, so leave the table out')
        _check_sizes(recipe, parts)
        self.parts, self._options = parts, options
        if parts.vae is not None:
            parts.vae.requires_grad_(False)
        self._codec = parts.codec
        self._ids = lru_cache(KEPT_TEXTS)(lambda text: tuple(encode(parts.tokenizer, text)))

    def text(self, text: str, *, learn: bool = False, then: Then | None = None, droppable: bool = False) -> Text:
        """A segment; see `editkit.models.bagel.parts.Text`."""
        return Text(self._ids(text), learn=learn, then=then, droppable=droppable)

    def encode(self, pixels_BNCHW: torch.Tensor) -> Batch:
        """What is kept of pictures: "pictures", themselves, for the ViT; and "latents", where they are the same in every step.

        Args:
            pixels_BNCHW: uint8, (B, N, 3, H, W); N may be 0.
        """
        kept = {"pictures": pixels_BNCHW}
        if self._codec.draws_nothing and pixels_BNCHW.shape[1]:
            x_BNCHW = to_network(pixels_BNCHW)
            kept["latents"] = self._codec.encode(x_BNCHW.flatten(0, 1)).float().unflatten(0, x_BNCHW.shape[:2])
        return kept

    def pictures(self, batch: Batch, draws: Draws) -> list[Pictures]:
        """The pictures of each example of a batch, with the noise and the times that they are learned at.

        Args:
            batch: what `encode` gave.
            draws: of the examples.
        """
        count, number = batch["pictures"].shape[:2]
        if not number:
            nothing = torch.zeros(0, 3, 1, 1)
            return [Pictures(nothing, nothing, [], []) for _ in range(count)]
        x_BNCHW = to_network(batch["pictures"])
        clean_BNCHW = batch["latents"] if "latents" in batch else self._latents(x_BNCHW, draws)
        noise_BNCHW = draws.normal(clean_BNCHW)
        t_BN = draw_timesteps(draws.uniform(number).flatten(), self._options.timesteps).view(count, number).tolist()
        vit = self.parts.sizes.vit
        return [
            Pictures(clean_BNCHW[i], noise_BNCHW[i], t_BN[i], [vit_view(x_CHW, vit) for x_CHW in x_BNCHW[i]])
            for i in range(count)
        ]

    @torch.no_grad()
    def _latents(self, x_BNCHW: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Drawn from the autoencoder's posterior in every step, as published; pixels where there is no autoencoder."""
        if self.parts.vae is None:
            return x_BNCHW
        latent = self.parts.sizes.latent
        height, width = (side // latent.px for side in x_BNCHW.shape[-2:])
        noise_BNCHW = draws.normal(x_BNCHW.new_zeros(*x_BNCHW.shape[:2], latent.channels, height, width))
        return self._codec.encode(x_BNCHW.flatten(0, 1), noise_BNCHW.flatten(0, 1)).unflatten(0, x_BNCHW.shape[:2])

    def loss(self, samples: Sequence[Sample], draws: Draws) -> Loss:
        """The loss of a batch, as the mean over its examples; every example's last draws are for its conditions.

        Args:
            samples: a sequence an example.
            draws: of the examples.
        """
        options = self._options
        rates: dict[type, float] = {
            Text: options.drop_text,
            CleanImage: options.drop_clean,
            SeenImage: options.drop_seen,
        }
        coins_of = [coins(sample) for sample in samples]
        u_BC = draws.uniform(1 + max(max(c, default=0) for c in coins_of)).tolist()
        told = zip(samples, coins_of, u_BC, strict=True)
        kept = [drop_conditions(sample, [u_C[c] for c in chosen], rates) for sample, chosen, u_C in told]
        return self.loss_of(kept)

    def loss_of(self, samples: Sequence[Sample]) -> Loss:
        """The same of sequences whose conditions are as they stand."""
        found = self._losses(samples)
        value = found.by_sample(self._options.ce_weight, self._options.mse_weight).mean()
        return Loss(value, {name: (total / tokens.clamp(min=1e-8)).detach() for name, total, tokens in _totals(found)})

    @torch.no_grad()
    def score(self, batches: Iterable[Sequence[Sample]]) -> dict[str, float]:
        """Of unseen examples with all their conditions: "test_loss" as trained; "test_ce", "test_mse" as means over tokens."""
        sums: dict[str, list[float]] = {}
        for samples in batches:
            found = self._losses(samples)
            whole = found.by_sample(self._options.ce_weight, self._options.mse_weight)
            for name, total, count in (("loss", whole.sum(), whole.new_tensor(len(samples))), *_totals(found)):
                before = sums.get(f"test_{name}", [0.0, 0.0])
                sums[f"test_{name}"] = [before[0] + float(total), before[1] + float(count)]
        return {name: total / count for name, (total, count) in sums.items() if count}

    def _losses(self, samples: Sequence[Sample]) -> SampleLosses:
        parts = self.parts
        row_tokens = self._options.row_tokens
        rows = fill_rows(samples, parts.sizes, row_tokens) if row_tokens else one_per_row(samples)
        packed = pack(rows, parts.tokens, parts.sizes).to(parts.network.embed_tokens.weight.device)
        return sample_losses(parts.network(packed), packed)


class WholeBagel(ABC):
    """A method that trains the whole network; the autoencoder, where there is one, stays frozen.

    What is left to each: its examples, their sequences, and what is to be seen of them.
    """

    def __init__(self, recipe: Recipe, options: InterleavedOptions, parts: BagelParts) -> None:
        self._recipe, self._parts = recipe, parts
        self._learner = Interleaved(recipe, options, parts)
        self._params = PrepareParams(recipe.data.resolution, recipe.data.crop)
        with torch.device("cpu"):  # an estimate makes methods on the meta device, which no weights can be read into
            self._detector = load_scene_judge(recipe.evaluate.judge)

    @property
    def trainable(self) -> nn.Module:
        return self._parts.network

    @property
    def frozen_encoders(self) -> dict[str, nn.Module]:
        """Latents that are drawn are drawn in every step and not cached; but a resumed run must have the same autoencoder."""
        return {"vae": self._parts.vae} if self._parts.vae is not None else {}

    @property
    def resting(self) -> list[nn.Module]:
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self._parts.network.parameters())}]

    @abstractmethod
    def pictures_of(self, example: Any) -> Sequence[Picture]: ...

    @abstractmethod
    def texts_of(self, example: Any) -> tuple[str, ...]: ...

    @abstractmethod
    def targets_of(self, example: Any) -> Mapping[str, Any]: ...

    @abstractmethod
    def samples(self, batch: Batch, draws: Draws) -> list[Sample]:
        """The sequence of each example of a batch."""

    def encode(self, pixels_BNCHW: torch.Tensor) -> Batch:
        return self._learner.encode(pixels_BNCHW)

    def cache_texts(self, texts: Iterable[str], store: Store) -> None:
        return

    def loss(self, batch: Batch, draws: Draws) -> Loss:
        return self._learner.loss(self.samples(batch, draws), draws)

    def unseen(self, examples: Sequence[Any], positions: Sequence[int]) -> list[Sample]:
        """The sequences of examples of a test set, with as many pictures each, at the same noise in every preview.

        Args:
            examples: of the data set.
            positions: their numbers in it.
        """
        opened = [prepare([p.open() for p in self.pictures_of(e)], self._params) for e in examples]
        device = self._parts.network.embed_tokens.weight.device
        batch = self.encode(torch.stack(opened).to(device)) | {"text": [self.texts_of(e)[0] for e in examples]}
        batch |= collate([self.targets_of(e) for e in examples])
        return self.samples(batch, Draws(self._recipe.evaluate.seed, positions))

    def flops(self, examples: Sequence[Any]) -> float:
        """Operations of learning from an example, forward and backward, as the mean over some; see `training_flops`."""
        sizes = self._parts.sizes
        found = [training_flops(sample, sizes) for n, one in enumerate(examples) for sample in self.unseen([one], [n])]
        return sum(found) / len(found)

    def sessions(self, prompts: Sequence[str]) -> Iterator[Session]:
        """What begins with each prompt, as many at once as an evaluation has in a batch, each under a seed of its own."""
        options = self._recipe.evaluate
        for start, chunk in chunks(prompts, options.batch_size):
            seeds = [picture_seed(options.seed, start + i) for i in range(len(chunk))]
            yield Session(self._parts.network, self._parts.tokens, [[self._learner.text(p)] for p in chunk], seeds)

    def finish(self, dataset: Dataset[Any]) -> None:
        return

    def export(self, folder: Path) -> Path:
        self._parts.save(folder / "model")
        return folder / "model"


def chunks(items: Sequence[T], size: int) -> Iterator[tuple[int, Sequence[T]]]:
    """(number of the first, items) of parts of up to `size`."""
    return ((start, items[start : start + size]) for start in range(0, len(items), size))


def _totals(found: SampleLosses) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Name, sum and number of tokens of each of the two losses."""
    return [("ce", found.ce_S.sum(), found.ce_tokens_S.sum()), ("mse", found.mse_S.sum(), found.mse_tokens_S.sum())]


def coins(sample: Sample) -> list[int]:
    """Which coin decides whether a part is dropped: 0 for all copies of all pictures, then one for the texts between two.

    As the branches of the sampler drop them: all pictures, or all texts behind the last one.
    """
    found: list[int] = []
    gap = 1
    for part in sample:
        is_text = isinstance(part, Text)
        if found and is_text and not found[-1]:
            gap += 1
        found.append(gap if is_text else 0)
    return found


def drawing(evaluate: Evaluate, options: InterleavedOptions) -> Drawing:
    """How a recipe wants pictures drawn; the times are shifted as in training."""
    text, image, interval = evaluate.text_guidance, evaluate.image_guidance, (options.guided_above, 1.0)
    return Drawing(evaluate.steps, options.timesteps.shift, text, image, interval)


def _check_sizes(recipe: Recipe, parts: BagelParts) -> None:
    """Latents are cut into patches, and the tables of positions end somewhere."""
    latent = parts.sizes.latent
    step, most = latent.px * latent.patch, latent.px * latent.patch * latent.side
    sizes = [(recipe.data.resolution, recipe.data.resolution)]
    if (buckets := recipe.data.buckets) is not None:
        sizes = make_buckets(buckets.sides, buckets.step, buckets.max_aspect)
    wrong = [side for size in sizes for side in size if side % step or side > most]
    if wrong:
        raise UserError(f"[data]: found pictures of {wrong[0]} px; this network takes multiples of {step} px up to {most}")
