"""Many sequences that are written and drawn at once, each token computed once.

A `Session` holds a batch of rows; a call names the rows that it is for, and the others wait. What a row writes or draws depends
on its own parts and its own seed, not on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from editkit.diffusion.flow import sampling_times
from editkit.diffusion.guidance import Renorm, guide
from editkit.models.bagel.cache import Cache
from editkit.models.bagel.network import Bagel
from editkit.models.bagel.packing import Packed, pack, unpatchify
from editkit.models.bagel.parts import CleanImage, Gap, NoisedImage, Part, Sample, SeenImage, SpecialTokens, Text, Then

KINDS: tuple[Then, ...] = ("text", "image", "stop")


@dataclass(frozen=True, slots=True)
class Writing:
    """How text is sampled."""

    max_tokens: int = 256  # of one segment; what is longer is cut off
    temperature: float = 0.0  # 0 = always the likeliest token; the released sampler has 0.3


@dataclass(frozen=True, slots=True)
class Drawing:
    """How pictures are sampled; the guidance is the released sampler's for text to image."""

    steps: int = 49  # evaluations of the network, each once for every branch; the released `num_timesteps` is one more
    shift: float = 3.0  # of the times, above 1 = more steps in the noise
    text_scale: float = 4.0  # 1 = no guidance by text
    image_scale: float = 1.5  # 1 = no guidance by the pictures before
    interval: tuple[float, float] = (0.4, 1.0)  # times (low, high] at which there is guidance
    renorm: Renorm = "global"
    renorm_min: float = 0.0


@dataclass(frozen=True, slots=True)
class _Branch:
    """A context that a picture is drawn from, and the batch of its noised tokens, whose numbers are filled in at each step."""

    cache: Cache
    template: Packed


class Session:
    """Rows that share a network.

    Args:
        network: on its device, in evaluation mode.
        tokens: the special ones.
        samples: what each row begins with: clean and seen pictures and texts; none is noised.
        seeds: of each row's random numbers.

    Attributes:
        parts: of each row, with what it wrote and was shown since.
    """

    def __init__(self, network: Bagel, tokens: SpecialTokens, samples: Sequence[Sample], seeds: Sequence[int]) -> None:
        self._network, self._tokens = network, tokens
        self._device = network.embed_tokens.weight.device
        self._random = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._cache = Cache(len(network.layers), len(samples))
        self._logits_BV = torch.zeros(len(samples), network.sizes.decoder.vocab_size)
        self.parts: list[list[Part]] = [[] for _ in samples]
        self.add(dict(enumerate(samples)))

    def add(self, parts: Mapping[int, Sample]) -> None:
        """Shows rows further parts.

        Args:
            parts: of each row that goes on.
        """
        for row, more in parts.items():
            self.parts[row] += more
        self._logits_BV = self._read(self._cache, parts, self._logits_BV)

    def skip_noise(self, row: int, pictures: int, size: tuple[int, int]) -> None:
        """Leaves out random numbers: the next picture gets the noise of the one behind so many.

        For a row that begins with pictures which another session drew under the same seed, with texts that were written at
        temperature 0.

        Args:
            row: whose.
            pictures: how many.
            size: height and width of their latents.
        """
        for _ in range(pictures):
            self._noise(row, self._grid(size))

    def following(self) -> list[Then]:
        """What the network would go on with in each row: the likeliest of the three."""
        openings = [self._tokens.opening(kind) for kind in KINDS]
        return [KINDS[i] for i in self._logits_BV[:, openings].argmax(1).tolist()]

    def log_odds(self, one: int, other: int) -> list[float]:
        """How much likelier one token is than another behind what each row has, as a difference of logarithms."""
        return (self._logits_BV[:, one] - self._logits_BV[:, other]).tolist()

    def write(self, rows: Sequence[int], writing: Writing, begun: Sequence[int] = ()) -> Iterator[dict[int, int]]:
        """Lets rows write one segment of text; each has it among its `parts` when the iterator has come to its end.

        Args:
            rows: that write.
            writing: how.
            begun: the tokens that each of them begins with.

        Yields:
            The next token of each row that is still writing, without the ends of the segment.
        """
        written: dict[int, list[int]] = {row: list(begun) for row in rows}
        pending = self._read(self._cache, {row: [Text(tuple(begun), closes=False)] for row in rows}, self._logits_BV)
        active = list(rows)
        while active:
            chosen = {row: self._choose(pending[row], row, writing.temperature) for row in active}
            for row in active:
                if len(written[row]) >= writing.max_tokens:
                    chosen[row] = self._tokens.text_end
            pending = self._read(self._cache, {r: [Text([t], opens=False, closes=False)] for r, t in chosen.items()}, pending)
            active = [row for row in active if chosen[row] != self._tokens.text_end]
            for row in active:
                written[row].append(chosen[row])
            if active:
                yield {row: chosen[row] for row in active}
        for row in rows:
            self.parts[row].append(Text(tuple(written[row])))
        self._logits_BV = pending

    def draw(
        self, rows: Sequence[int], size: tuple[int, int], drawing: Drawing, after_step: Callable[[], None] | None = None
    ) -> torch.Tensor:
        """Draws a picture in each of the rows, as `sample` does.

        Args:
            rows: that draw.
            size: height and width of the latents.
            drawing: how.
            after_step: called after each of its steps, for those who wait.
        """
        sampling = self.sample(rows, size, drawing)
        while True:
            try:
                next(sampling)
            except StopIteration as end:
                return end.value
            if after_step is not None:
                after_step()

    @torch.no_grad()
    def sample(self, rows: Sequence[int], size: tuple[int, int], drawing: Drawing) -> Generator[int, None, torch.Tensor]:
        """Draws a picture in each of the rows, a step at a time. `add` shows it to them.

        The text branch lacks the texts behind the last picture, the image branch all pictures: what a prompt, or a plan, adds,
        and what is kept of the picture before.

        Args:
            rows: that draw.
            size: height and width of the latents.
            drawing: how.

        Yields:
            How many steps are done.

        Returns:
            Latents (len(rows), C, height, width).
        """
        latent = self._network.sizes.latent
        grid = self._grid(size)
        shape = (latent.channels, *size)
        full = _Branch(self._cache, self._template(self._cache, rows, shape))
        no_text = self._branch(rows, without_last_texts, shape) if drawing.text_scale != 1 else None
        ordered = sorted(rows)  # as the tokens of a batch follow each other
        # A row without pictures has no image branch, whatever stands beside it: there both scales would act on the text.
        looks = [any(isinstance(p, (CleanImage, SeenImage)) for p in self.parts[row]) for row in ordered]
        no_image = self._branch(rows, without_images, shape) if drawing.image_scale != 1 and any(looks) else None
        scales = [drawing.image_scale if any_picture else 1.0 for any_picture in looks]
        image_scale_B11 = torch.tensor(scales, device=self._device)[:, None, None]
        x_BND = torch.stack([self._noise(row, grid) for row in ordered]).to(self._device)
        low, high = drawing.interval
        for done, (t, t_next) in enumerate(pairwise(sampling_times(drawing.steps, drawing.shift)), 1):
            guided = low < t <= high
            branches = [full, no_text if guided else None, no_image if guided else None]
            v = [self._velocity(branch, x_BND, t) if branch is not None else None for branch in branches]
            assert v[0] is not None
            if guided:
                v[0] = guide(v[0], v[1], v[2], drawing.text_scale, image_scale_B11, drawing.renorm, drawing.renorm_min)
            x_BND = x_BND - (t - t_next) * v[0]
            yield done
        return unpatchify(x_BND[[ordered.index(row) for row in rows]], grid, latent.patch)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        patch = self._network.sizes.latent.patch
        return size[0] // patch, size[1] // patch

    def _noise(self, row: int, grid: tuple[int, int]) -> torch.Tensor:
        """The next of a row: (N, D)."""
        return torch.randn(grid[0] * grid[1], self._network.sizes.latent.token_dim, generator=self._random[row])

    def _branch(self, rows: Sequence[int], keep: Callable[[Sample], list[Part]], shape: tuple[int, int, int]) -> _Branch:
        cache = Cache(len(self._network.layers), len(self.parts))
        self._read(cache, {row: keep(self.parts[row]) for row in rows}, self._logits_BV)
        return _Branch(cache, self._template(cache, rows, shape))

    def _template(self, cache: Cache, rows: Sequence[int], shape: tuple[int, int, int]) -> Packed:
        nothing = torch.zeros(shape)
        return self._pack(cache, {row: [NoisedImage(nothing, nothing, 1.0)] for row in rows}, ask_last=False)

    def _velocity(self, branch: _Branch, x_BND: torch.Tensor, t: float) -> torch.Tensor:
        batch = replace(branch.template, latents_ND=x_BND.flatten(0, 1), time_I=torch.full_like(branch.template.time_I, t))
        return self._network(batch, branch.cache).velocity_ND.float().view_as(x_BND)

    def _pack(self, cache: Cache, parts: Mapping[int, Sample], *, ask_last: bool) -> Packed:
        rows = [[parts.get(row, ())] for row in range(len(self.parts))]
        packed = pack(rows, self._tokens, self._network.sizes, starts=cache.positions, ask_last=ask_last)
        return packed.to(self._device)

    @torch.no_grad()
    def _read(self, cache: Cache, parts: Mapping[int, Sample], before_BV: torch.Tensor) -> torch.Tensor:
        """Takes parts into a cache: the logits behind each row's last token; those of before where a row has no new one."""
        packed = self._pack(cache, {row: [_told(p) for p in more] for row, more in parts.items()}, ask_last=True)
        rows = [row for row, added in enumerate(packed.added) if added]
        after_BV = before_BV.clone()
        if rows:
            after_BV[rows] = self._network(packed, cache, remember=True).logits_NV.float().cpu()
        return after_BV

    def _choose(self, logits_V: torch.Tensor, row: int, temperature: float) -> int:
        """A token of text, or its end; what opens or closes a picture cannot stand in a text."""
        ends = self._tokens
        barred = [ends.text_start, ends.image_start, ends.image_end, ends.stop]
        logits_V = logits_V.index_fill(0, torch.tensor(barred), -torch.inf)
        if temperature == 0:
            return int(logits_V.argmax())
        return int(torch.multinomial((logits_V / temperature).softmax(0), 1, generator=self._random[row]))


def without_last_texts(parts: Sample) -> list[Part]:
    """The parts up to the last picture: what is left when the texts that ask for the next one are dropped."""
    last = max((n for n, p in enumerate(parts) if not isinstance(p, (Text, Gap))), default=-1)
    return list(parts[: last + 1])


def without_images(parts: Sample) -> list[Part]:
    """The texts alone."""
    return [p for p in parts if isinstance(p, Text)]


def _told(part: Part) -> Part:
    """The part as a condition, of which nothing is learned."""
    if isinstance(part, NoisedImage):
        raise ValueError("found a noised picture in what a session is shown; expected a clean or a seen copy")
    if isinstance(part, Text):
        return replace(part, learn=False, then=None)
    return part if isinstance(part, Gap) else replace(part, then=None)
