"""A trained captioner as functions on pairs of pictures: what changed, and how well given words say it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from editkit.data.prepare import PrepareParams, prepare
from editkit.models.difference_captioner.load import CaptionerParts, stack_pictures

IGNORED = -100  # label of the places behind an instruction's end, as transformers has it
OTHERS = 16  # pairs beside which an instruction is measured; with 8 about a twentieth more wrong ones pass


class DifferenceCaptioner:
    """Describes pairs of pictures; what it is given at once is one batch."""

    def __init__(self, parts: CaptionerParts) -> None:
        self._parts = parts
        self._params = PrepareParams(parts.size)

    def stack(self, pairs: Sequence[tuple[Image.Image, Image.Image]]) -> torch.Tensor:
        """(source, target) pictures as the network is shown them: (batch, 9, size, size)."""
        pixels = torch.stack([prepare(pair, self._params) for pair in pairs])
        return stack_pictures(pixels).to(self._parts.model.device)

    @torch.no_grad()
    def describe(self, stacked_BCHW: torch.Tensor) -> list[str]:
        """An instruction for each pair, at every place the likeliest token."""
        model: Any = self._parts.model  # its annotation gives `generate` many results of which this is one
        tokens_BL = model.generate(pixel_values=stacked_BCHW, do_sample=False)
        return [tidy(text) for text in self._parts.tokenizer.batch_decode(tokens_BL, skip_special_tokens=True)]

    @torch.no_grad()
    def agreement(self, stacked_BCHW: torch.Tensor, given: Sequence[str]) -> list[float | None]:
        """How much better words fit their own pair than those beside it: p / (p + the mean of p over up to `OTHERS` others).

        p is the likelihood of the words for a pair. What is unusual about a phrasing is as unusual beside other pictures, so it
        does not count; the captioner's own words do not matter either.

        Args:
            stacked_BCHW: the pairs; the others of one are those that follow it, and behind the last one the first.
            given: an instruction for each; "" = none.

        Returns:
            In [0, 1], for each: 0.5 = they fit the others as well; None = no instruction, or no other pair.
        """
        count = len(stacked_BCHW)
        others = min(OTHERS, count - 1)
        asked = [i for i, text in enumerate(given) if text]
        agreed: list[float | None] = [None] * count
        if not asked or not others:
            return agreed
        labels_BL = token_labels(self._parts, [given[i] for i in asked])
        lengths_B = (labels_BL != IGNORED).sum(1)
        states_BTD = self._parts.model.encoder(pixel_values=stacked_BCHW).last_hidden_state
        rows_B = torch.tensor(asked, device=states_BTD.device)
        beside = ({"encoder_outputs": (states_BTD[(rows_B + step) % count],)} for step in range(others + 1))
        own_B, *other_B = [-lengths_B * mean_loss(self._parts, seen, labels_BL) for seen in beside]
        better_B = own_B - (torch.stack(other_B).logsumexp(0) - math.log(others))
        for i, value in zip(asked, better_B.sigmoid().tolist(), strict=True):
            agreed[i] = value
        return agreed


def token_labels(parts: CaptionerParts, texts: Sequence[str]) -> torch.Tensor:
    """The tokens of texts with their end, `IGNORED` behind it: (batch, longest), on the model's device."""
    tokens = parts.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(parts.model.device)
    return tokens.input_ids.masked_fill(tokens.attention_mask == 0, IGNORED)[:, 1:]


def mean_loss(
    parts: CaptionerParts, seen: Mapping[str, Any], labels_BL: torch.Tensor, forgotten_BL: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of each text given its pictures and the words before, the mean over its tokens: (batch,).

    Args:
        parts: the captioner.
        seen: the pairs, as the model takes them: "pixel_values", or "encoder_outputs" of them.
        labels_BL: of `token_labels`.
        forgotten_BL: whether a token is hidden from those behind it; None = none is.
    """
    inputs_BL = parts.model.prepare_decoder_input_ids_from_labels(labels_BL)
    told_BL = torch.cat([torch.ones_like(labels_BL[:, :1]), labels_BL[:, :-1] != IGNORED], dim=1)
    if forgotten_BL is not None:
        inputs_BL[:, 1:] = inputs_BL[:, 1:].masked_fill(forgotten_BL[:, :-1], parts.tokenizer.pad_token_id)
    logits_BLV = parts.model(**seen, decoder_input_ids=inputs_BL, decoder_attention_mask=told_BL, use_cache=False).logits
    losses_BL = F.cross_entropy(logits_BLV.float().transpose(1, 2), labels_BL, ignore_index=IGNORED, reduction="none")
    return losses_BL.sum(1) / (labels_BL != IGNORED).sum(1)


def tidy(text: str) -> str:
    """Words as one writes them: the tokenizer does not know that no space stands before a comma."""
    return re.sub(r" +([,.;:?!])", r"\1", " ".join(text.split()))
