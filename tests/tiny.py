"""A tiny random Stable Diffusion of the real classes, in the stock layout, and tiny pictures to go with it."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image

from editkit.models.bagel.load import BagelParts
from editkit.models.difference_captioner.load import CaptionerParts
from editkit.models.stable_diffusion.load import (
    Options,
    SchedulerOptions,
    TextEncoderOptions,
    TokenizerOptions,
    UnetOptions,
    VaeOptions,
    load,
)

TEXTS = ["make the hair red", "remove the glasses", "a portrait with a blue hat", "change nothing", "add a beard"]


def tiny_options(prediction_type: str = "epsilon") -> Options:
    return Options(
        vae=VaeOptions(channels=[8, 16, 16], groups=4),
        tokenizer=TokenizerOptions(vocab_size=600, max_length=32),
        text_encoder=TextEncoderOptions(width=32, layers=2, heads=2),
        unet=UnetOptions(sample_size=8, channels=[16, 32], attention=[False, True], heads=2, groups=4),
        scheduler=SchedulerOptions(prediction_type=prediction_type),
    )


def save_tiny_stable_diffusion(folder: Path, *, in_channels: int = 4, seed: int = 0) -> Path:
    """Saves a text-to-image model (4 channels) or an editor (8 channels) for 32 px pictures."""
    from editkit.models.surgery import widen_conv_in

    torch.manual_seed(seed)
    parts = load("", tiny_options(), lambda: TEXTS)
    if in_channels == 8:
        widen_conv_in(parts.unet, 8)
        with torch.no_grad():  # an editor that looks at its source
            parts.unet.conv_in.weight[:, 4:].normal_(std=0.2)
    parts.save(folder)
    return folder


def picture(colour: str, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A picture with a corner of another colour, so that flips can be seen."""
    image = Image.new("RGB", size, colour)
    image.paste("black", (0, 0, size[0] // 4, size[1] // 3))
    return image


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


TRACES_SPEC = """\
format = 1
name = "traces"
kind = "plan_traces"
licence = "as stated"
[build]
builder = "plan_refine"
train = 24
test = 12
"""


def avatars_spec(train: int, test: int, size: int, *, name: str = "small", kind: str = "edit_pairs") -> str:
    """A data spec of the lab's world."""
    return (
        f'format = 1\nname = "{name}"\nkind = "{kind}"\n[build]\nbuilder = "avatars"\n'
        f"train = {train}\ntest = {test}\nsize = {size}\nseed = 3\n"
    )


def tiny_captioner(texts: list[str] = TEXTS, seed: int = 0) -> CaptionerParts:
    """A tiny random difference captioner for 32 px pictures."""
    from editkit.models.difference_captioner import load as captioner

    torch.manual_seed(seed)
    options = captioner.Options(width=32, layers=1, decoder_layers=1, heads=2, size=32, vocab_size=700, max_length=24)
    parts = captioner.load("", options, lambda: texts)
    parts.model.eval()
    return parts


def tiny_bagel_parts(seed: int = 0) -> BagelParts:
    """A BAGEL for 32 px whose vocabulary has the scenes world's words, with weights that make everything matter."""
    from editkit.lab.scene_texts import world_texts
    from editkit.models.bagel.config import DecoderConfig, LatentConfig, VitConfig
    from editkit.models.bagel.load import Options as BagelOptions
    from editkit.models.bagel.load import load as load_bagel

    torch.manual_seed(seed)
    decoder = DecoderConfig(vocab_size=1, width=32, mlp=48, layers=2, heads=4, kv_heads=2, head_dim=8)
    vit = VitConfig(width=16, mlp=24, layers=1, heads=2, patch=8, side=4)
    latent = LatentConfig(channels=3, patch=8, side=4)
    options = BagelOptions(size="tiny", vocab_size=500, decoder=decoder, vit=vit, latent=latent)
    parts = load_bagel("", options, lambda: [*TEXTS, *world_texts(20)])
    with torch.no_grad():
        parts.network.latent_out.weight.normal_(std=0.1)
    return parts
