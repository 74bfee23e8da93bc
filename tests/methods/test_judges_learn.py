"""The methods behind the lab's VAE and judges, against the reference libraries and against pictures whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from editkit.data.draws import Draws
from editkit.data.examples import CaptionedImage
from editkit.data.prepare import to_network
from editkit.lab.avatar_edits import sample_avatars
from editkit.methods.attribute_reader import HIDDEN, AttributeReading, disturb, reading_accuracy
from editkit.methods.autoencoder import Autoencoder
from editkit.methods.contrastive import Contrastive
from editkit.models.attribute_reader import load as attribute_reader
from editkit.models.clip import load as clip
from editkit.models.stable_diffusion.load import Options, load
from editkit.recipe.schema import Data, Model
from tests.methods.test_instruct_edit import recipe
from tests.tiny import TEXTS


def pixels(count: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 3, side, side), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def test_the_contrastive_loss_is_clips_own() -> None:
    torch.manual_seed(0)
    options = clip.Options(width=32, layers=2, heads=2, size=32, patch=8, vocab_size=600, max_length=24)
    parts = clip.load("", options, lambda: TEXTS)
    method = Contrastive(recipe(model=Model(family="clip")), Contrastive.Options(), parts)
    given = method.encode(pixels(4, 32)) | {"text": TEXTS[:4]}
    found = method.loss(given, Draws(0, range(4))).value
    images = parts.processor([x.permute(1, 2, 0).numpy() for x in given["image"]], return_tensors="pt")
    tokens = parts.tokenizer(TEXTS[:4], padding="max_length", max_length=24, truncation=True, return_tensors="pt")
    expected = parts.model(**tokens, pixel_values=images["pixel_values"], return_loss=True).loss
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.fixture(scope="module")
def reading() -> AttributeReading:
    torch.manual_seed(0)
    parts = attribute_reader.load("", attribute_reader.Options(channels=[8, 8], size=32))
    chosen = recipe(model=Model(family="attribute_reader"), data=Data(train="nowhere", resolution=32))
    return AttributeReading(chosen, AttributeReading.Options(disturbed=0.0), parts)


def labelled(method: AttributeReading, examples: list[CaptionedImage]) -> dict:
    labels = torch.stack([method.targets_of(e)["labels"] for e in examples])
    return {"image": pixels(len(examples), 32)[:, 0], "labels": labels}


def test_the_reader_is_asked_for_what_can_be_seen_only(reading: AttributeReading) -> None:
    examples = sample_avatars(12, seed=3, size=32)
    given = labelled(reading, examples)
    names = list(reading._words)
    for example, labels in zip(examples, given["labels"].tolist(), strict=True):
        shown = {n: reading._words[n][label] for n, label in zip(names, labels, strict=True) if label != HIDDEN}
        assert shown == example.facts
    logits = reading._reader(to_network(given["image"]))
    losses = [
        F.cross_entropy(logits[n], given["labels"][:, i], ignore_index=HIDDEN, label_smoothing=0.02)
        for i, n in enumerate(names)
        if (given["labels"][:, i] != HIDDEN).any()
    ]
    found = reading.loss(given, Draws(0, range(12))).value
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-5)


def test_reading_accuracy_counts_by_attribute() -> None:
    examples = sample_avatars(6, seed=4, size=32)
    assert set(reading_accuracy(examples, [e.facts for e in examples]).values()) == {1.0}
    others = [e.facts | {"background": "none of them"} for e in examples]
    assert reading_accuracy(examples, others)["background"] == 0.0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_pictures_are_disturbed_as_often_as_asked_and_stay_recognisable(share: float) -> None:
    images = to_network(torch.stack([torch.full((3, 16, 16), 90, dtype=torch.uint8)] * 20))
    changed = disturb(images, share, Draws(0, range(20)))
    differs = (changed != images).flatten(1).any(1)
    assert differs.all() if share else not differs.any()
    assert (changed - images).abs().mean() < 0.1


def test_the_autoencoders_loss_is_pixels_edges_squares_and_kl(tiny_sd: Path) -> None:
    parts = load(str(tiny_sd), Options())
    options = Autoencoder.Options(kl_weight=0.1, edge_weight=2.0, square_weight=3.0)
    method = Autoencoder(recipe(), options, parts)
    given = method.encode(pixels(2, 32))
    found = method.loss(given, Draws(7, range(2)))

    image = to_network(given["image"])
    posterior = parts.vae.encode(image).latent_dist
    noise = Draws(7, range(2)).normal(posterior.mean)
    drawn = parts.vae.decode(posterior.mean + posterior.std * noise).sample
    edges = sum(F.l1_loss(drawn.diff(dim=d), image.diff(dim=d)) for d in (2, 3))
    kl = posterior.kl().sum() / posterior.mean.numel()  # diffusers sums over each picture
    expected = F.l1_loss(drawn, image) + 2.0 * edges + 3.0 * F.mse_loss(drawn, image) + 0.1 * kl
    assert found.value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_scaling_factor_makes_latents_of_unit_variance(tiny_sd: Path) -> None:
    parts = load(str(tiny_sd), Options())
    method = Autoencoder(recipe(), Autoencoder.Options(), parts)
    examples = sample_avatars(24, seed=1, size=32)
    method.finish(examples)
    latents = torch.cat([parts.vae.encode(to_network(torch.from_numpy(_array(e)))).latent_dist.sample() for e in examples])
    assert (latents * parts.scaling_factor).std().item() == pytest.approx(1.0, abs=0.05)


def _array(example: CaptionedImage):
    import numpy as np

    return np.asarray(example.image.open()).transpose(2, 0, 1)[None].copy()
