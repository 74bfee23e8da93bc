"""What a sample is made of: text, and pictures in up to three copies.

A picture that is learned and then looked at stands in the sequence three times: noised, for the flow loss; clean, as latents;
and as the ViT sees it. What is only drawn has the first alone, what is only looked at the other two. The templates are those of
BAGEL (section 2.3 of arXiv:2505.14683): a text is `<|im_start|>` ... `<|im_end|>`, every copy of a picture is
`<|vision_start|>` ... `<|vision_end|>`. A token of text takes one rotary position; all tokens of a copy share one, the noised
and the clean copy of a picture the same, the ViT's the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from editkit.models.bagel.config import BagelConfig

Then = Literal["text", "image", "stop"]


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens that are no text, under their names in Qwen2.5's vocabulary."""

    text_start: int  # <|im_start|>
    text_end: int  # <|im_end|>
    image_start: int  # <|vision_start|>
    image_end: int  # <|vision_end|>
    stop: int  # <|endoftext|>

    def opening(self, then: Then) -> int:
        """The token with which what follows begins."""
        return {"text": self.text_start, "image": self.image_start, "stop": self.stop}[then]


@dataclass(frozen=True, slots=True)
class Text:
    """A segment of text.

    Attributes:
        ids: its tokens, without the two ends.
        learn: whether it is to be written: cross-entropy on the tokens and the end.
        then: what is to be written next: cross-entropy on the opening token of that, at this segment's end. So the network
            learns when to draw. None = nothing is learned of it.
        droppable: whether `drop_conditions` may leave it out; with it go its own labels.
        weight: of its tokens in the cross-entropy, such as 1 / sqrt(length).
        opens, closes: whether it has its beginning and its end; both False for what goes on with a text.
    """

    ids: Sequence[int]
    learn: bool = False
    then: Then | None = None
    droppable: bool = False
    weight: float = 1.0
    opens: bool = True
    closes: bool = True


@dataclass(frozen=True, slots=True)
class NoisedImage:
    """The copy of a picture on which the flow is learned, or sampled; nobody sees it but itself.

    Attributes:
        clean_CHW: latents x_0.
        noise_CHW: eps, standard normal.
        t: time in [0, 1], 1 = noise.
    """

    clean_CHW: torch.Tensor
    noise_CHW: torch.Tensor
    t: float


@dataclass(frozen=True, slots=True)
class CleanImage:
    """The latents of a picture as a condition, at t = 0.

    Attributes:
        latents_CHW: x_0.
        then: as of `Text`, at the copy's end.
        droppable: whether `drop_conditions` may leave it out.
    """

    latents_CHW: torch.Tensor
    then: Then | None = None
    droppable: bool = False


@dataclass(frozen=True, slots=True)
class SeenImage:
    """A picture as the ViT sees it; sides are multiples of its patch.

    Attributes:
        pixels_CHW: in [-1, 1].
        then: as of `Text`, at the copy's end.
        droppable: whether `drop_conditions` may leave it out.
    """

    pixels_CHW: torch.Tensor
    then: Then | None = None
    droppable: bool = False


@dataclass(frozen=True, slots=True)
class Gap:
    """A picture that was left out: no token, but its rotary position is passed over, as in the released training."""


Part = Text | NoisedImage | CleanImage | SeenImage | Gap
Sample = Sequence[Part]


def drop_conditions(sample: Sample, u_P: Sequence[float], rates: Mapping[type, float]) -> list[Part]:
    """Leaves droppable parts out, each by itself, for classifier-free guidance (section 4.1 of arXiv:2505.14683).

    Args:
        sample: its parts.
        u_P: a uniform number in [0, 1) for each part.
        rates: {Text: 0.1, CleanImage: 0.3, SeenImage: 0.3} are the released code's; a kind that is not there is kept.
    """
    kept: list[Part] = []
    for part, u in zip(sample, u_P, strict=True):
        if not getattr(part, "droppable", False) or u >= rates.get(type(part), 0.0):
            kept.append(part)
        elif not isinstance(part, Text):
            kept.append(Gap())
    return kept


def count_tokens(part: Part, config: BagelConfig) -> int:
    """Places that a part takes in its row."""
    if isinstance(part, Text):
        return len(part.ids) + part.opens + part.closes
    if isinstance(part, Gap):
        return 0
    if isinstance(part, SeenImage):
        height, width = part.pixels_CHW.shape[1:]
        return height // config.vit.patch * (width // config.vit.patch) + 2
    height, width = (part.clean_CHW if isinstance(part, NoisedImage) else part.latents_CHW).shape[1:]
    return height // config.latent.patch * (width // config.latent.patch) + 2


def one_per_row(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Every sample in a row of its own, padded to the longest: the quickest on a CPU, where lengths are alike."""
    return [[sample] for sample in samples]


def fill_rows(samples: Sequence[Sample], config: BagelConfig, max_tokens: int) -> list[list[Sample]]:
    """Samples in as few rows as the first that has room makes of them; for FlexAttention, which skips what is not seen.

    Args:
        samples: in the order in which they are placed.
        config: of the network.
        max_tokens: of a row.

    Raises:
        ValueError: a sample is longer than a row.
    """
    rows: list[list[Sample]] = []
    room: list[int] = []
    for sample in samples:
        needed = sum(count_tokens(part, config) for part in sample)
        if needed > max_tokens:
            raise ValueError(f"found a sample of {needed} tokens; expected at most {max_tokens}, a row")
        row = next((i for i, left in enumerate(room) if left >= needed), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(max_tokens)
        rows[row].append(sample)
        room[row] -= needed
    return rows
