"""A BAGEL of the real classes at a size for tests, and samples for it."""

from __future__ import annotations

import torch

from editkit.models.bagel.config import BagelConfig, DecoderConfig, LatentConfig, VitConfig
from editkit.models.bagel.network import Bagel
from editkit.models.bagel.parts import CleanImage, NoisedImage, Part, SeenImage, SpecialTokens, Text

TOKENS = SpecialTokens(text_start=1, text_end=2, image_start=3, image_end=4, stop=0)
SIZE = 8  # px, side of most pictures: 4 tokens of latents, 4 of the ViT
SIZES = BagelConfig(
    decoder=DecoderConfig(vocab_size=40, width=32, mlp=48, layers=2, heads=4, kv_heads=2, head_dim=8),
    vit=VitConfig(width=16, mlp=24, layers=1, heads=2, patch=4, side=4),
    latent=LatentConfig(channels=3, patch=4, side=4),
)


def small_bagel(sizes: BagelConfig = SIZES, seed: int = 0) -> Bagel:
    """Random weights, also where training begins with zeros."""
    torch.manual_seed(seed)
    network = Bagel.of(sizes)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.15)
    return network


def image(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> torch.Tensor:
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(seed))


def text(seed: int, length: int, **more) -> Text:
    return Text(torch.randint(5, 40, (length,), generator=torch.Generator().manual_seed(seed)).tolist(), **more)


def trace(seed: int, *, size: tuple[int, int] = (SIZE, SIZE)) -> list[Part]:
    """Prompt, plan, a sketch in all three copies, an inspection, the picture."""
    sketch, final = image(seed, size), image(seed + 1, size)
    return [
        text(seed, 3 + seed % 4),
        text(seed + 1, 4, learn=True, then="image"),
        NoisedImage(sketch, image(seed + 2, size), 0.7),
        CleanImage(sketch),
        SeenImage(sketch, then="text"),
        text(seed + 3, 2, learn=True, then="image"),
        NoisedImage(final, image(seed + 4, size), 0.2),
    ]


def direct(seed: int) -> list[Part]:
    """Prompt, picture."""
    return [text(seed, 2 + seed % 3, then="image"), NoisedImage(image(seed), image(seed + 1), 0.5)]
