"""Operations of a BAGEL, counted from the lengths of what it reads, writes and draws.

A product of (m, k) and (k, n) counts 2 m k n, as torch's counter does; norms, activations and rotations are left out, and so is
an autoencoder. Attention counts every query with every key of its row, masked or not, for so it is computed. A row alone: what
several rows are padded with is no work of theirs.

`Ledger` follows a `Session` call by call: each token of a text is a pass of its own over what is remembered; a picture is drawn
in steps of up to three branches, of which the two without conditions read theirs anew; a drawn picture is then read in both
copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

from editkit.diffusion.flow import sampling_times
from editkit.models.bagel.config import BagelConfig
from editkit.models.bagel.network import TIME_DIM
from editkit.models.bagel.parts import CleanImage, NoisedImage, Part, SeenImage, Text, count_tokens
from editkit.models.bagel.session import Drawing, without_images, without_last_texts

BACKWARD = 2  # forward passes that a backward pass takes: once for the weights, once for what they were multiplied with


@dataclass(frozen=True, slots=True)
class Pass:
    """What a forward pass over one row is made of.

    Attributes:
        text: tokens of text, the markers around pictures among them.
        patches: of each picture that the ViT sees.
        latents: tokens of all noised and clean copies.
        copies: how many of these there are.
        noised: latents for which a velocity is predicted.
        asked: tokens of text behind which the next one is predicted.
    """

    text: int = 0
    patches: tuple[int, ...] = ()
    latents: int = 0
    copies: int = 0
    noised: int = 0
    asked: int = 0

    @property
    def tokens(self) -> int:
        """All of them."""
        return self.text + sum(self.patches) + self.latents


def pass_over(parts: Sequence[Part], config: BagelConfig, asked: int = 0) -> Pass:
    """The pass over these parts.

    Args:
        parts: of a row.
        config: of the network.
        asked: tokens behind which the next one is predicted.
    """
    text = latents = copies = noised = 0
    patches: list[int] = []
    for part in parts:
        tokens = count_tokens(part, config)
        if isinstance(part, Text):
            text += tokens
        elif isinstance(part, SeenImage):
            text, patches = text + 2, [*patches, tokens - 2]
        elif isinstance(part, (CleanImage, NoisedImage)):
            text, latents, copies = text + 2, latents + tokens - 2, copies + 1
            noised += tokens - 2 if isinstance(part, NoisedImage) else 0
    return Pass(text, tuple(patches), latents, copies, noised, asked)


def pass_flops(made: Pass, config: BagelConfig, remembered: int = 0) -> int:
    """Operations of a forward pass.

    Args:
        made: what it is made of.
        config: of the network.
        remembered: tokens of the row that are in its cache.
    """
    if not made.tokens:
        return 0
    decoder, vit, latent = config.decoder, config.vit, config.latent
    width, queries, keys = decoder.width, decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    weights = width * (2 * queries + 2 * keys + 3 * decoder.mlp)  # of one expert in one layer; a token meets one
    attention = 2 * queries * made.tokens * (made.tokens + remembered)
    multiplied = decoder.layers * (made.tokens * weights + attention)
    seen = sum(made.patches)
    multiplied += seen * (3 * vit.patch**2 * vit.width + vit.layers * vit.width * (4 * vit.width + 2 * vit.mlp))
    multiplied += vit.layers * sum(2 * vit.width * count**2 for count in made.patches)
    multiplied += seen * width * (vit.width + width)  # the connector
    multiplied += made.copies * width * (TIME_DIM + width) + made.latents * latent.token_dim * width
    multiplied += made.asked * width * decoder.vocab_size + made.noised * width * latent.token_dim
    return 2 * multiplied


def training_flops(parts: Sequence[Part], config: BagelConfig) -> int:
    """Operations of a forward and a backward pass over a sample, in a row of its own.

    Args:
        parts: of the sample, with what is learned of them.
        config: of the network.
    """
    asked = sum(_labels(part, config) for part in parts)
    return (1 + BACKWARD) * pass_flops(pass_over(parts, config, asked), config)


def _labels(part: Part, config: BagelConfig) -> int:
    """Tokens of a part behind which the next one is learned."""
    inside = count_tokens(part, config) - 1 if isinstance(part, Text) and part.learn else 0
    return inside + (getattr(part, "then", None) is not None)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a generation takes.

    Attributes:
        reading: operations on what it begins with.
        writing: on texts, a pass a token.
        drawing: on pictures, all branches, with the conditions that these read anew.
        looking: on pictures that were drawn and are read in both copies.
        steps: sampling steps of all pictures, as papers count them ("NFE" without guidance).
        evaluations: of the network in these steps, each branch by itself.
        pictures: that were drawn.
        tokens: of text that were written, the ends of segments among them.
    """

    reading: int = 0
    writing: int = 0
    drawing: int = 0
    looking: int = 0
    steps: int = 0
    evaluations: int = 0
    pictures: int = 0
    tokens: int = 0

    @property
    def flops(self) -> int:
        """Operations in all."""
        return self.reading + self.writing + self.drawing + self.looking

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Ledger:
    """Counts what a session of one row does.

    Args:
        config: of the network.
        begun: what the row begins with.
    """

    def __init__(self, config: BagelConfig, begun: Sequence[Part]) -> None:
        self._config = config
        self._parts: list[Part] = []
        self._remembered = 0
        self.cost = Cost(reading=self._read(begun))
        self._parts += begun

    def write(self, text: Text) -> None:
        """A segment that was written: its opening, each token and its end are read one by one."""
        flops = sum(self._read([Text([0], opens=False, closes=False)]) for _ in range(len(text.ids) + 2))
        self._parts.append(text)
        self.cost += Cost(writing=flops, tokens=len(text.ids) + 2)

    def draw(self, noised: NoisedImage, drawing: Drawing) -> None:
        """A picture, which nobody sees before `show`.

        Args:
            noised: any of its size.
            drawing: how.
        """
        times = [t for t, _ in pairwise(sampling_times(drawing.steps, drawing.shift))]
        guided = sum(drawing.interval[0] < t <= drawing.interval[1] for t in times)
        step = pass_over([noised], self._config)
        flops, evaluations = len(times) * pass_flops(step, self._config, self._remembered), len(times)
        looks = any(isinstance(part, (CleanImage, SeenImage)) for part in self._parts)
        branches = [without_last_texts(self._parts)] if drawing.text_scale != 1 else []
        branches += [without_images(self._parts)] if drawing.image_scale != 1 and looks else []
        for kept in branches:
            read = pass_over(kept, self._config, asked=1)
            flops += pass_flops(read, self._config) + guided * pass_flops(step, self._config, read.tokens)
            evaluations += guided
        self.cost += Cost(drawing=flops, steps=len(times), evaluations=evaluations, pictures=1)

    def show(self, parts: Sequence[Part]) -> None:
        """What it is shown, such as both copies of what it drew."""
        self.cost += Cost(looking=self._read(parts))
        self._parts += parts

    def glance(self, parts: Sequence[Part]) -> None:
        """What is read and forgotten again, such as a picture that was not chosen."""
        made = pass_over(parts, self._config, asked=1)
        self.cost += Cost(looking=pass_flops(made, self._config, self._remembered))

    def _read(self, parts: Sequence[Part]) -> int:
        made = pass_over(parts, self._config, asked=1)
        flops = pass_flops(made, self._config, self._remembered)
        self._remembered += made.tokens
        return flops
