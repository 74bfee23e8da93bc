"""From texts and pictures to what the UNet takes in. The source picture enters in `concat_source`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch

from editkit.data.cache import Store, entry_key, fill, weights_hash
from editkit.data.draws import Draws, picture_seed
from editkit.models.stable_diffusion.load import StableDiffusion
from editkit.models.tokenizer import tokenizer_hash

TEXT_BATCH = 8
TEXT_CACHE_BYTES = 4 * 2**30  # main memory for encoded texts; 18,000 of them for Stable Diffusion 1.5


def encode_texts(parts: StableDiffusion, texts: Sequence[str]) -> torch.Tensor:
    """The text encoder's last hidden states, (batch, tokens, width), padded to the tokenizer's full length."""
    tokens = parts.tokenizer(
        list(texts),
        padding="max_length",
        max_length=parts.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return parts.text_encoder(tokens.input_ids.to(parts.text_encoder.device))[0]


class TextStates:
    """Encoded texts for training: with a frozen text encoder a text is encoded again only when it has been forgotten.

    What was used longest ago is forgotten first, so that memory stays bounded however many texts a data set has. After `fill`
    it is looked up in the store instead.
    """

    def __init__(self, parts: StableDiffusion, limit_bytes: int = TEXT_CACHE_BYTES) -> None:
        self._parts = parts
        self._limit_bytes = limit_bytes
        self._frozen = not any(p.requires_grad for p in parts.text_encoder.parameters())
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._store: Store | None = None
        self._key_parts: dict[str, str] = {}

    def fill(self, texts: Iterable[str], store: Store) -> None:
        """Puts the states of `texts` and of the empty text into the store; nothing where the text encoder is trained."""
        if not self._frozen:
            return
        self._store = store
        self._key_parts = {
            "kind": "text",
            "encoder": weights_hash(self._parts.text_encoder.state_dict()),
            "tokenizer": tokenizer_hash(self._parts.tokenizer),
        }
        distinct = sorted({*texts, ""})
        keys = [self._key(text) for text in distinct]
        filled = fill(store, keys, lambda rows: self._encode([distinct[r] for r in rows]), TEXT_BATCH, "encoding the texts")
        print(f"texts: {filled}")

    @property
    def is_filled(self) -> bool:
        """Whether the store has what training asks for, so that the text encoder may rest."""
        return self._store is not None

    def _key(self, text: str) -> str:
        return entry_key(content=[text.encode()], **self._key_parts)

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """Always in batches of one size: another would round differently, and a resumed run forgets other texts."""
        states: list[dict[str, torch.Tensor]] = []
        for start in range(0, len(texts), TEXT_BATCH):
            some = list(texts[start : start + TEXT_BATCH])
            made = encode_texts(self._parts, [*some, *(some[-1:] * (TEXT_BATCH - len(some)))]).cpu()
            states += [{"states": state.clone()} for state in made[: len(some)]]  # not views of the batch
        return states

    def _look_up(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """States from the store, and from the encoder where it has them no more."""
        found = self._store.get([self._key(t) for t in texts]) if self._store is not None else [None] * len(texts)
        lost = [t for t, entry in zip(texts, found, strict=True) if entry is None]
        made = iter(self._encode(lost) if lost else [])
        return [(entry or next(made))["states"] for entry in found]

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """States (batch, tokens, width) on the UNet's device."""
        if not self._frozen:
            return encode_texts(self._parts, texts)
        new = [t for t in dict.fromkeys(texts) if t not in self._known]
        if new:
            self._known.update(zip(new, self._look_up(new), strict=True))
        for text in texts:
            self._known.move_to_end(text)
        states_BTD = torch.stack([self._known[t] for t in texts])
        while len(self._known) * states_BTD[0].nbytes > self._limit_bytes:
            self._known.popitem(last=False)
        return states_BTD.to(self._parts.unet.device)


def draw_latents(mean: torch.Tensor, std: torch.Tensor, scaling_factor: float, draws: Draws) -> torch.Tensor:
    """A sample of the VAE's posterior, multiplied by its scaling factor: what is noised. In fp32, whatever is kept of them."""
    mean, std = mean.float(), std.float()
    return (mean + std * draws.normal(mean)) * scaling_factor


def concat_source(noisy_BCHW: torch.Tensor, source_BCHW: torch.Tensor) -> torch.Tensor:
    """The UNet's eight channels: the noisy target latents and the source latents, in this order.

    The source latents are the posterior's mode and are *not* multiplied by the scaling factor, as the InstructPix2Pix weights
    and the stock pipeline have it.
    """
    return torch.cat([noisy_BCHW, source_BCHW], dim=1)


def sample_latents(parts: StableDiffusion, count: int, resolution: int, seed: int, first: int = 0) -> torch.Tensor:
    """Starting noise, a generator for every picture, so that it does not depend on how pictures are batched.

    Args:
        count: pictures.
        resolution: their side in px.
        seed: of the whole series.
        first: number of the first picture in the series.
    """
    side = resolution // parts.vae_scale
    shape = (1, parts.latent_channels, side, side)
    seeds = (picture_seed(seed, first + i) for i in range(count))
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.cat(noise).to(parts.unet.device)
