"""The text-to-image base against its definition, and what of it is trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from editkit.data.draws import Draws
from editkit.data.examples import CaptionedImage
from editkit.data.pictures import Picture
from editkit.data.prepare import to_network
from editkit.methods.text_to_image import TextToImage
from editkit.models.stable_diffusion.load import Options, load
from tests.methods.test_instruct_edit import recipe
from tests.tiny import TEXTS, encoded, picture


def make(tiny_sd: Path, **options: float) -> TextToImage:
    return TextToImage(recipe(), TextToImage.Options(**options), load(str(tiny_sd), Options()))


def batch(method: TextToImage) -> dict:
    pixels = torch.randint(0, 256, (4, 1, 3, 32, 32), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    with torch.no_grad():
        return method.encode(pixels) | {"text": TEXTS[:4], "pixels": pixels}


def test_loss_equals_a_straight_restatement_on_diffusers_modules(tiny_sd: Path) -> None:
    method = make(tiny_sd, caption_dropout=0.5)
    given = batch(method)
    found = method.loss(given, Draws(11, range(4))).value

    parts, draws = method._parts, Draws(11, range(4))
    posterior = parts.vae.encode(to_network(given["pixels"][:, 0])).latent_dist
    sample = posterior.mean + posterior.std * draws.normal(posterior.mean)
    latents = sample * parts.vae.config.scaling_factor
    noise = draws.normal(latents)
    timesteps = (draws.uniform() * 1000).long()
    noisy = DDPMScheduler.from_config(parts.scheduler.config).add_noise(latents, noise, timesteps)
    texts = ["" if u < 0.5 else t for u, t in zip(draws.uniform().tolist(), TEXTS, strict=False)]
    assert "" in texts
    assert set(texts) != {""}
    tokens = parts.tokenizer(texts, padding="max_length", max_length=32, truncation=True, return_tensors="pt")
    states = parts.text_encoder(tokens.input_ids).last_hidden_state
    expected = torch.nn.functional.mse_loss(parts.unet(noisy, timesteps, states).sample, noise)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_first_caption_is_drawn_as_often_as_its_weight_says(tiny_sd: Path) -> None:
    example = CaptionedImage("a", Picture(data=encoded(picture("red"))), ("full", "part", "other"))
    assert Counter(make(tiny_sd).texts_of(example)) == {"full": 1, "part": 1, "other": 1}
    assert Counter(make(tiny_sd, first_caption_weight=10).texts_of(example)) == {"full": 10, "part": 1, "other": 1}


@pytest.mark.parametrize("rate", [0.0, 3e-4])
def test_the_text_encoder_is_trained_where_it_has_a_rate(tiny_sd: Path, rate: float) -> None:
    method = make(tiny_sd, text_encoder_lr=rate, caption_dropout=0.0)
    method.loss(batch(method), Draws(1, range(4))).value.backward()
    trained = [p.grad is not None for p in method._parts.text_encoder.parameters()]
    assert all(trained) if rate else not any(trained)
    assert all(p.grad is None for p in method._parts.vae.parameters())
    assert [g.get("lr") for g in method.parameter_groups()] == [None, rate] if rate else [None]


def test_a_picture_does_not_depend_on_its_batch(tiny_sd: Path) -> None:
    method = make(tiny_sd)
    alone = make(tiny_sd)
    alone._recipe = recipe(evaluate=recipe().evaluate.model_copy(update={"batch_size": 1}))
    made = [m.generate(TEXTS[:3], guidance=3.0, steps=2, seed=5) for m in (method, alone)]
    for a, b in zip(*made, strict=True):
        assert max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True)) <= 1
    assert len({m.tobytes() for m in made[0]}) == 3
