"""From the parts of samples to the tensors that the network takes; several samples may share a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from editkit.diffusion.flow import flow_path, flow_velocity
from editkit.models.bagel.config import BagelConfig
from editkit.models.bagel.masks import CAUSAL, FULL, NOISE, PADDING, Places
from editkit.models.bagel.parts import CleanImage, Gap, NoisedImage, Sample, SeenImage, SpecialTokens, Text


@dataclass(frozen=True)
class Packed:
    """A batch for `Bagel`. Axes: N tokens of one kind, D numbers of one, B rows, L places, I images.

    Attributes:
        text_N: ids, the markers around pictures among them.
        vit_patches_ND: pixels of all patches, with `vit_grids`, (rows, columns) of each picture.
        vit_position_N: of each patch in the table of positions.
        latents_ND: tokens of all noised and clean copies.
        latent_position_N, latent_image_N: place in the table, and which copy each belongs to.
        time_I: of each copy.
        place_N: row * L + column of every token, in the order text, ViT, latents.
        position_N: rotary, in the same order.
        places: what the mask depends on.
        noised_N: which latents are noised; a velocity is predicted for them.
        target_ND, target_sample_N: the velocity that is right, and whose.
        ask_N: at which tokens of text the next one is predicted.
        label_N, label_weight_N, label_sample_N: which one is right, its weight, and whose.
        samples: how many there are.
        added, next_positions: of each sample, its tokens, and the rotary position at which it goes on.
    """

    text_N: torch.Tensor
    vit_patches_ND: torch.Tensor
    vit_grids: list[tuple[int, int]]
    vit_position_N: torch.Tensor
    latents_ND: torch.Tensor
    latent_position_N: torch.Tensor
    latent_image_N: torch.Tensor
    time_I: torch.Tensor
    place_N: torch.Tensor
    position_N: torch.Tensor
    places: Places
    noised_N: torch.Tensor
    target_ND: torch.Tensor
    target_sample_N: torch.Tensor
    ask_N: torch.Tensor
    label_N: torch.Tensor
    label_weight_N: torch.Tensor
    label_sample_N: torch.Tensor
    samples: int
    added: list[int]
    next_positions: list[int]

    def to(self, device: torch.device | str) -> Packed:
        """The same on a device."""
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, torch.Tensor):
                moved[f.name] = value.to(device, non_blocking=True)
            elif isinstance(value, Places):
                moved[f.name] = Places(*(getattr(value, p.name).to(device, non_blocking=True) for p in fields(value)))
        return replace(self, **moved)


def patchify(x_CHW: torch.Tensor, patch: int) -> torch.Tensor:
    """Tokens of a picture or of its latents, row by row, the channels last within one: (tokens, patch * patch * C).

    Args:
        x_CHW: sides are multiples of `patch`; a batch of such, (I, C, H, W), gives (I, tokens, ...).
        patch: side of a token.
    """
    x = x_CHW.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # ... C h p w q
    return x.movedim((-4, -2, -3, -1, -5), (-5, -4, -3, -2, -1)).flatten(-3).flatten(-3, -2)


def unpatchify(tokens_BND: torch.Tensor, grid: tuple[int, int], patch: int) -> torch.Tensor:
    """The reverse of `patchify` for a batch of equal grids: (B, C, H, W)."""
    x = tokens_BND.unflatten(1, grid).unflatten(-1, (patch, patch, -1))  # B h w p q C
    return x.permute(0, 5, 1, 3, 2, 4).flatten(2, 3).flatten(3, 4)


def pack(
    rows: Sequence[Sequence[Sample]],
    tokens: SpecialTokens,
    config: BagelConfig,
    *,
    starts: Sequence[int] | None = None,
    ask_last: bool = False,
) -> Packed:
    """Makes a batch.

    Args:
        rows: samples by row.
        tokens: the special ones.
        config: of the network that takes the batch.
        starts: rotary position of each sample's first token; None = 0.
        ask_last: predict what follows the last token of each sample that has one, which must be text.

    Raises:
        ValueError: a picture has sides that are no multiples of the patch, or is larger than the table of positions.
    """
    builder = _Builder(tokens, config)
    number = 0
    for row, samples in enumerate(rows):
        builder.begin_row(row)
        for sample in samples:
            builder.add(sample, number, starts[number] if starts else 0, ask_last)
            number += 1
    return builder.build()


@dataclass
class _Kind:
    """Where the tokens of one kind stand, in the order in which they were added."""

    row: list[int] = field(default_factory=list)
    column: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)


class _Builder:
    """Collects lists, of which tensors are made once.

    A tensor a part would cost more than the parts; and no shape may depend on the numbers in a tensor, because the fake ones of
    the estimator have none.
    """

    def __init__(self, tokens: SpecialTokens, config: BagelConfig) -> None:
        self._tokens, self._config = tokens, config
        self._text, self._vit, self._latent = _Kind(), _Kind(), _Kind()
        self._sample: list[list[int]] = []
        self._split: list[list[int]] = []
        self._mode: list[list[int]] = []
        self._ids: list[int] = []
        self._pixels: list[torch.Tensor] = []
        self._vit_tables: list[int] = []
        self._grids: list[tuple[int, int]] = []
        self._copies: list[CleanImage | NoisedImage] = []
        self._latent_tables: list[int] = []
        self._owners: list[int] = []  # the sample of each copy
        self._sizes: list[int] = []  # and its tokens
        self._asked: list[int] = []
        self._labels: list[tuple[int, float, int]] = []
        self._added: list[int] = []
        self._ends: list[int] = []
        self._row = 0
        self._splits = 0

    def begin_row(self, row: int) -> None:
        self._row, self._splits = row, 0
        for facts in (self._sample, self._split, self._mode):
            facts.append([])

    def add(self, sample: Sample, number: int, start: int, ask_last: bool) -> None:
        position, before = start, len(self._sample[-1])
        for part in sample:
            if isinstance(part, Text):
                position += self._add_text(part, number, position)
                continue
            if isinstance(part, SeenImage):
                self._add_seen(part, number, position)
            elif not isinstance(part, Gap):
                self._add_latents(part, number, position)
            position += not isinstance(part, NoisedImage)  # its clean copy has the same
        added = len(self._sample[-1]) - before
        if ask_last and added:
            self._asked.append(len(self._ids) - 1)
        self._added.append(added)
        self._ends.append(position)

    def _place(self, kind: _Kind, count: int, position: range | int) -> None:
        start = len(self._sample[-1])
        kind.row += [self._row] * count
        kind.column += range(start, start + count)
        kind.position += [position] * count if isinstance(position, int) else position

    def _finish_split(self, number: int, mode: int, count: int) -> None:
        self._sample[-1] += [number] * count
        self._split[-1] += [self._splits] * count
        self._mode[-1] += [mode] * count
        self._splits += 1

    def _label(self, at: int, token: int, weight: float, number: int) -> None:
        self._asked.append(at)
        self._labels.append((token, weight, number))

    def _add_text(self, part: Text, number: int, position: int) -> int:
        ends = self._tokens
        ids = [*([ends.text_start] if part.opens else []), *part.ids, *([ends.text_end] if part.closes else [])]
        first = len(self._ids)
        self._place(self._text, len(ids), range(position, position + len(ids)))
        self._ids += ids
        self._finish_split(number, CAUSAL, len(ids))
        if part.learn:
            for at, token in enumerate(ids[1:]):
                self._label(first + at, token, part.weight, number)
        if part.then is not None:
            self._label(len(self._ids) - 1, ends.opening(part.then), part.weight, number)
        return len(ids)

    def _around(self, kind: _Kind, number: int, mode: int, count: int, position: int) -> None:
        """A copy of a picture between its markers, which are text."""
        start = len(self._sample[-1])
        self._text.row += [self._row] * 2
        self._text.column += [start, start + count + 1]
        self._text.position += [position] * 2
        self._ids += [self._tokens.image_start, self._tokens.image_end]
        kind.row += [self._row] * count
        kind.column += range(start + 1, start + count + 1)
        kind.position += [position] * count
        self._finish_split(number, mode, count + 2)

    def _add_seen(self, part: SeenImage, number: int, position: int) -> None:
        vit = self._config.vit
        grid = _grid(part.pixels_CHW, vit.patch, vit.side, "the ViT")
        self._pixels.append(part.pixels_CHW)
        self._grids.append(grid)
        self._vit_tables += _table_rows(grid, vit.side)
        self._around(self._vit, number, FULL, grid[0] * grid[1], position)
        if part.then is not None:
            self._label(len(self._ids) - 1, self._tokens.opening(part.then), 1.0, number)

    def _add_latents(self, part: CleanImage | NoisedImage, number: int, position: int) -> None:
        latent = self._config.latent
        noised = isinstance(part, NoisedImage)
        grid = _grid(part.clean_CHW if noised else part.latents_CHW, latent.patch, latent.side, "the latents")
        self._copies.append(part)
        self._owners.append(number)
        self._sizes.append(grid[0] * grid[1])
        self._latent_tables += _table_rows(grid, latent.side)
        self._around(self._latent, number, NOISE if noised else FULL, grid[0] * grid[1], position)
        if isinstance(part, CleanImage) and part.then is not None:
            self._label(len(self._ids) - 1, self._tokens.opening(part.then), 1.0, number)

    def build(self) -> Packed:
        length = max((len(row) for row in self._sample), default=0)
        kinds = (self._text, self._vit, self._latent)
        places = Places(
            *(_rectangle(facts, length, fill) for facts, fill in ((self._sample, PADDING), (self._split, 0))),
            _rectangle(self._mode, length, FULL),
        )
        latents = self._latents()
        image_N = [number for number, size in enumerate(self._sizes) for _ in range(size)]
        noised_N = [n for n, image in enumerate(image_N) if isinstance(self._copies[image], NoisedImage)]
        labels = [torch.tensor([label[i] for label in self._labels], dtype=d) for i, d in enumerate(_LABEL_TYPES)]
        return Packed(
            text_N=torch.tensor(self._ids, dtype=torch.long),
            vit_patches_ND=_all_patches(self._pixels, self._config.vit.patch, 3),
            vit_grids=self._grids,
            vit_position_N=torch.tensor(self._vit_tables, dtype=torch.long),
            latents_ND=latents["x_t"],
            latent_position_N=torch.tensor(self._latent_tables, dtype=torch.long),
            latent_image_N=torch.tensor(image_N, dtype=torch.long),
            time_I=torch.tensor([c.t if isinstance(c, NoisedImage) else 0.0 for c in self._copies]),
            place_N=torch.tensor([r * length + c for k in kinds for r, c in zip(k.row, k.column, strict=True)]).long(),
            position_N=torch.tensor([p for k in kinds for p in k.position], dtype=torch.long),
            places=places,
            noised_N=torch.tensor(noised_N, dtype=torch.long),
            target_ND=latents["velocity"],
            target_sample_N=torch.tensor([self._owners[image_N[n]] for n in noised_N], dtype=torch.long),
            ask_N=torch.tensor(self._asked, dtype=torch.long),
            label_N=labels[0],
            label_weight_N=labels[1],
            label_sample_N=labels[2],
            samples=len(self._added),
            added=self._added,
            next_positions=self._ends,
        )

    def _latents(self) -> dict[str, torch.Tensor]:
        """Tokens of all copies as they enter, and the velocities of the noised ones."""
        entering, velocities = [], []
        for copy in self._copies:
            if isinstance(copy, NoisedImage):
                entering.append(flow_path(copy.clean_CHW, copy.noise_CHW, torch.tensor(copy.t)))
                velocities.append(flow_velocity(copy.clean_CHW, copy.noise_CHW))
            else:
                entering.append(copy.latents_CHW)
        patch, channels = self._config.latent.patch, self._config.latent.channels
        return {"x_t": _all_patches(entering, patch, channels), "velocity": _all_patches(velocities, patch, channels)}


_LABEL_TYPES = (torch.long, torch.float32, torch.long)


def _grid(x_CHW: torch.Tensor, patch: int, side: int, whose: str) -> tuple[int, int]:
    height, width = x_CHW.shape[1:]
    if height % patch or width % patch or max(height, width) > patch * side:
        raise ValueError(
            f"found a picture of {width} x {height}; {whose} take multiples of {patch} up to {patch * side}"
        )  # fmt: skip
    return height // patch, width // patch


def _table_rows(grid: tuple[int, int], side: int) -> list[int]:
    """Which rows of a table of side * side positions the tokens of a grid have."""
    return [y * side + x for y in range(grid[0]) for x in range(grid[1])]


def _all_patches(images: Sequence[torch.Tensor], patch: int, channels: int) -> torch.Tensor:
    if not images:
        return torch.zeros(0, channels * patch**2)
    if all(image.shape == images[0].shape for image in images):
        return patchify(torch.stack(list(images)), patch).flatten(0, 1)
    return torch.cat([patchify(image, patch) for image in images])


def _rectangle(facts: Sequence[Sequence[int]], length: int, fill: int) -> torch.Tensor:
    return torch.tensor([[*row, *([fill] * (length - len(row)))] for row in facts], dtype=torch.long).view(len(facts), length)
