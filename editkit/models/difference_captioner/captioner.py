"""A trained captioner as functions on pairs of pictures: what changed, and how well given words say it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from editkit.data.prepare import PrepareParams, prepare
from editkit.models.difference_captioner.load import CaptionerParts, stack_pictures

IGNORED = -100  # label of the places behind an instruction's end, as transformers has it


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
    def agreement(self, stacked_BCHW: torch.Tensor, given: Sequence[str], said: Sequence[str]) -> list[float]:
        """How likely given words are beside the captioner's own, a token on average.

        Args:
            stacked_BCHW: the pairs.
            given: an instruction for each.
            said: what `describe` said of each.

        Returns:
            In [0, 1]: 1 = at least as likely as its own.
        """
        losses = [mean_loss(self._parts, stacked_BCHW, token_labels(self._parts, texts)) for texts in (given, said)]
        return (losses[1] - losses[0]).exp().clamp(max=1.0).tolist()


def token_labels(parts: CaptionerParts, texts: Sequence[str]) -> torch.Tensor:
    """The tokens of texts with their end, `IGNORED` behind it: (batch, longest), on the model's device."""
    tokens = parts.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(parts.model.device)
    return tokens.input_ids.masked_fill(tokens.attention_mask == 0, IGNORED)[:, 1:]


def mean_loss(
    parts: CaptionerParts, stacked_BCHW: torch.Tensor, labels_BL: torch.Tensor, forgotten_BL: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of each text given its pictures and the words before, the mean over its tokens: (batch,).

    Args:
        parts: the captioner.
        stacked_BCHW: the pairs.
        labels_BL: of `token_labels`.
        forgotten_BL: whether a token is hidden from those behind it; None = none is.
    """
    inputs_BL = parts.model.prepare_decoder_input_ids_from_labels(labels_BL)
    if forgotten_BL is not None:
        inputs_BL[:, 1:] = inputs_BL[:, 1:].masked_fill(forgotten_BL[:, :-1], parts.tokenizer.pad_token_id)
    logits_BLV = parts.model(pixel_values=stacked_BCHW, decoder_input_ids=inputs_BL, use_cache=False).logits
    losses_BL = F.cross_entropy(logits_BLV.float().transpose(1, 2), labels_BL, ignore_index=IGNORED, reduction="none")
    return losses_BL.sum(1) / (labels_BL != IGNORED).sum(1)


def tidy(text: str) -> str:
    """Words as one writes them: the tokenizer does not know that no space stands before a comma."""
    return re.sub(r" +([,.;:?!])", r"\1", " ".join(text.split()))
