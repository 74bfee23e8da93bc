"""CLIP of transformers, ours or a real one, and the interface through which the judge uses either."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from editkit.errors import UserError
from editkit.models.locate import locate_model
from editkit.models.quiet import quiet_files
from editkit.models.tokenizer import train_clip_tokenizer
from editkit.recipe.schema import PositiveInt, Section

BATCH = 100


class Options(Section):
    """A new CLIP; without `width` the base is loaded."""

    width: PositiveInt | None = None
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    patch: PositiveInt = 8
    size: PositiveInt = 64
    vocab_size: PositiveInt = 1024
    max_length: PositiveInt = 40


@dataclass
class ClipParts:
    """The model with its tokenizer and image processor."""

    base: str
    model: CLIPModel
    tokenizer: CLIPTokenizer
    processor: CLIPImageProcessorPil

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"clip": self.model}

    def save(self, folder: Path) -> None:
        with quiet_files():
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            self.processor.save_pretrained(folder)


def load(base: str, options: Options, texts: Callable[[], Iterable[str]] | None = None, *, weights: bool = True) -> ClipParts:
    """Loads a CLIP, or makes a new one when `options.width` is given; see `editkit.models.protocol.FamilyModule`."""
    if options.width is None:
        if not base:
            raise UserError("[model]: found neither base nor width; expected one of them")
        folder = locate_model(base, weights=weights)
        try:
            with quiet_files():
                loaded = (
                    CLIPModel.from_pretrained(folder, dtype=torch.float32)
                    if weights
                    else CLIPModel(CLIPConfig.from_pretrained(folder))
                )
                return ClipParts(
                    base,
                    loaded.eval(),
                    CLIPTokenizer.from_pretrained(folder),
                    CLIPImageProcessorPil.from_pretrained(folder),
                )
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: cannot be loaded as a CLIP: {str(error).splitlines()[0]}") from error
    if texts is None:
        raise ValueError("a new tokenizer needs the training texts")
    tokenizer = train_clip_tokenizer(texts(), options.vocab_size, options.max_length)
    tower = {
        "hidden_size": options.width, "intermediate_size": 4 * options.width, "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads, "projection_dim": options.width,
    }  # fmt: skip
    text = {
        "vocab_size": len(tokenizer) if weights else options.vocab_size, "max_position_embeddings": options.max_length,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    config = CLIPConfig(
        text_config=tower | text,
        vision_config=tower | {"image_size": options.size, "patch_size": options.patch},
        projection_dim=options.width,
    )
    side = {"height": options.size, "width": options.size}
    processor = CLIPImageProcessorPil(size={"shortest_edge": options.size}, crop_size=side)
    return ClipParts(base, CLIPModel(config), tokenizer, processor)


class ClipEncoder:
    """Pictures and texts as unit vectors."""

    def __init__(self, parts: ClipParts) -> None:
        self._parts = parts

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit vectors (len(images), width)."""
        found = []
        for start in range(0, len(images), BATCH):
            pixels = self._parts.processor(list(images[start : start + BATCH]), return_tensors="pt")["pixel_values"]
            found.append(F.normalize(image_features(self._parts.model, pixels), dim=-1))
        return torch.cat(found)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (len(texts), width)."""
        found = []
        for start in range(0, len(texts), BATCH):
            found.append(F.normalize(text_features(self._parts, texts[start : start + BATCH]), dim=-1))
        return torch.cat(found)


def load_clip(folder: Path) -> ClipEncoder:
    """The encoder in a folder in the stock layout."""
    return ClipEncoder(load(str(folder), Options()))


def image_features(model: CLIPModel, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Projected, not normalised picture vectors."""
    return model.visual_projection(model.vision_model(pixel_values=pixels_BCHW).pooler_output)


def text_features(parts: ClipParts, texts: Sequence[str]) -> torch.Tensor:
    """Projected, not normalised text vectors."""
    tokens = parts.tokenizer(
        list(texts),
        padding="max_length",
        max_length=parts.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).to(parts.model.device)
    pooled = parts.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
    return parts.model.text_projection(pooled)
