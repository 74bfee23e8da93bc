"""Interleaved generation: the network writes, draws and looks as it decides, in many rows at once, and says what happens."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch

from editkit.models.bagel.codec import Codec, vit_view
from editkit.models.bagel.config import BagelConfig
from editkit.models.bagel.parts import CleanImage, Part, SeenImage, Then
from editkit.models.bagel.session import Drawing, Session, Writing

SAID_SO = "said so"


@dataclass(frozen=True, slots=True)
class Token:
    """A row wrote a token."""

    row: int
    id: int


@dataclass(frozen=True, slots=True)
class Wrote:
    """A row ended a segment of text."""

    row: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sampled:
    """The pictures that are drawn have so many sampling steps behind them."""

    done: int


@dataclass(frozen=True, slots=True)
class Drew:
    """A row drew a picture, pixels in [-1, 1]."""

    row: int
    pixels_CHW: torch.Tensor


@dataclass(frozen=True, slots=True)
class Stopped:
    """A row came to its end: because it said so (`SAID_SO`), or because it had as many pictures or parts as it may have."""

    row: int
    why: str


Event = Token | Wrote | Sampled | Drew | Stopped


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a row may go; quality collapses behind some twenty pictures in one context (arXiv:2603.07540)."""

    images: int = 5
    parts: int = 20  # texts and pictures together


def look_at(pixels_CHW: torch.Tensor, codec: Codec, config: BagelConfig) -> list[Part]:
    """A picture as a condition: its latents, and what the ViT sees.

    Args:
        pixels_CHW: in [-1, 1].
        codec: of the network's latents.
        config: of the network.
    """
    latents_CHW = codec.encode(pixels_CHW[None])[0]
    return [CleanImage(latents_CHW.cpu()), SeenImage(vit_view(pixels_CHW, config.vit).cpu())]


def generate(
    session: Session,
    codec: Codec,
    config: BagelConfig,
    size: tuple[int, int],
    writing: Writing,
    drawing: Drawing,
    limits: Limits = Limits(),
    decide: Callable[[int, Then, Sequence[Part]], Then] | None = None,
) -> Iterator[Event]:
    """Goes on until every row has stopped; events come as they happen.

    Args:
        session: with what each row begins with.
        codec: of the network's latents.
        config: of the network.
        size: height and width of the pictures, px.
        writing: how text is sampled.
        drawing: how pictures are sampled.
        limits: how far.
        decide: what a row goes on with, given its number, what the network wants and its parts; None = as the network wants.
    """
    active = list(range(len(session.parts)))
    drawn, made = dict.fromkeys(active, 0), dict.fromkeys(active, 0)
    latent_size = size[0] // config.latent.px, size[1] // config.latent.px
    while active:
        wanted = session.following()
        plan: dict[Then, list[int]] = {"text": [], "image": [], "stop": []}
        for row in list(active):
            kind = decide(row, wanted[row], session.parts[row]) if decide else wanted[row]
            full = "pictures" if kind == "image" and drawn[row] == limits.images else ""
            full = "parts" if kind != "stop" and made[row] == limits.parts else full
            plan["stop" if full else kind].append(row)
            if full or kind == "stop":
                active.remove(row)
                yield Stopped(row, f"as many {full} as it may have" if full else SAID_SO)
        if plan["text"]:
            for tokens in session.write(plan["text"], writing):
                yield from (Token(row, token) for row, token in tokens.items())
            for row in plan["text"]:
                said = session.parts[row][-1]
                yield Wrote(row, tuple(getattr(said, "ids", ())))
        if plan["image"]:
            latents_BCHW = yield from _told(session.sample(plan["image"], latent_size, drawing))
            with torch.no_grad():
                pixels_BCHW = codec.decode(latents_BCHW)
                shown = {r: look_at(x, codec, config) for r, x in zip(plan["image"], pixels_BCHW, strict=True)}
            for row, pixels_CHW in zip(plan["image"], pixels_BCHW, strict=True):
                drawn[row] += 1
                yield Drew(row, pixels_CHW)
            session.add(shown)
        for row in (*plan["text"], *plan["image"]):
            made[row] += 1


def _told(sampling: Generator[int, None, torch.Tensor]) -> Generator[Sampled, None, torch.Tensor]:
    """The same, with its steps as events."""
    while True:
        try:
            done = next(sampling)
        except StopIteration as end:
            return end.value
        yield Sampled(done)
