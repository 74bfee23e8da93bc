"""InstructPix2Pix against its own definition, and a test for every known way to get it wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionInstructPix2PixPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit.data.draws import Draws
from editkit.data.prepare import to_network
from editkit.errors import UserError
from editkit.methods.instruct_edit import InstructEdit, draw_dropout
from editkit.models import METADATA
from editkit.models.stable_diffusion.load import Options, StableDiffusion, load
from editkit.recipe.schema import Adapter, Data, Method, Model, Optim, Recipe, Train


def recipe(**changes: object) -> Recipe:
    values = {
        "name": "test",
        "method": Method(name="instruct_edit"),
        "model": Model(family="stable_diffusion"),
        "data": Data(train="nowhere", resolution=32),
        "optim": Optim(lr=1e-3),
        "train": Train(steps=1, batch_size=4),
    }
    return Recipe(**(values | changes))


def make(
    tiny_sd: Path, dropout: float = 0.05, adapter: Adapter | None = None, text_encoder_lr: float = 0.0
) -> tuple[InstructEdit, StableDiffusion]:
    parts = load(str(tiny_sd), Options())
    options = InstructEdit.Options(conditioning_dropout=dropout, text_encoder_lr=text_encoder_lr)
    return InstructEdit(recipe(adapter=adapter), options, parts), parts


def batch(method: InstructEdit, count: int = 4) -> dict:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        encoded = method.encode(pixels)
    return encoded | {
        "text": ["make the hair red", "add a beard", "remove the glasses", "change nothing"][:count],
        "pixels": pixels,
    }


def test_loss_equals_a_straight_restatement_on_diffusers_modules(tiny_sd: Path) -> None:
    method, parts = make(tiny_sd, dropout=0.25)
    with torch.no_grad():
        parts.unet.conv_in.weight[:, 4:].normal_(std=0.3)  # so that the source matters
    given_batch = batch(method)
    found = method.loss(given_batch, Draws(11, range(4))).value

    draws = Draws(11, range(4))
    pixels = given_batch["pixels"]
    scheduler = DDPMScheduler.from_config(parts.scheduler.config)
    posterior = parts.vae.encode(to_network(pixels[:, 1])).latent_dist
    sample = posterior.mean + posterior.std * draws.normal(posterior.mean)
    latents = sample * parts.vae.config.scaling_factor
    noise = draws.normal(latents)
    timesteps = (draws.uniform() * 1000).long()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    source = parts.vae.encode(to_network(pixels[:, 0])).latent_dist.mode()
    u = draws.uniform()
    p = 0.25
    texts = [("" if u[i] < 2 * p else given_batch["text"][i]) for i in range(4)]
    tokens = parts.tokenizer(texts, padding="max_length", max_length=32, truncation=True, return_tensors="pt")
    states = parts.text_encoder(tokens.input_ids).last_hidden_state
    image_mask = 1 - ((u >= p).float() * (u < 3 * p).float())
    inputs = torch.cat([noisy, source * image_mask.view(4, 1, 1, 1)], dim=1)
    expected = torch.nn.functional.mse_loss(parts.unet(inputs, timesteps, states).sample, noise)

    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_loss_of_a_difference_is_that_of_targets_less_their_sources(tiny_sd: Path) -> None:
    parts = load(str(tiny_sd), Options())
    method = InstructEdit(recipe(), InstructEdit.Options(draws="difference", conditioning_dropout=0.0), parts)
    given_batch = batch(method)
    found = method.loss(given_batch, Draws(11, range(4))).value
    plain, _ = make(tiny_sd, dropout=0.0)
    moved = given_batch | {"mean": given_batch["mean"] - given_batch["source"]}
    assert found.item() == pytest.approx(plain.loss(moved, Draws(11, range(4))).value.item(), abs=1e-5)
    assert found.item() != pytest.approx(plain.loss(given_batch, Draws(11, range(4))).value.item(), abs=1e-3)


def test_what_a_difference_needs_is_said(tiny_sd: Path) -> None:
    with pytest.raises(UserError, match=r"an adapter cannot say what its base draws"):
        InstructEdit(recipe(adapter=Adapter(rank=2)), InstructEdit.Options(draws="difference"), load(str(tiny_sd), Options()))
    parts = load(str(tiny_sd), Options())
    InstructEdit(recipe(), InstructEdit.Options(draws="difference"), parts)
    with pytest.raises(UserError, match=r'its UNet draws differences .* expected \[method\] draws = "difference"'):
        InstructEdit(recipe(), InstructEdit.Options(), parts)


def test_first_step_sees_exactly_the_base_model(tiny_sd: Path) -> None:
    base = load(str(tiny_sd), Options())
    _, parts = make(tiny_sd)
    generator = torch.Generator().manual_seed(0)
    noisy, source = torch.randn(2, 2, 4, 8, 8, generator=generator)
    states = torch.randn(2, 32, 32, generator=generator)
    timesteps = torch.tensor([10, 700])
    with torch.no_grad():
        expected = base.unet(noisy, timesteps, states).sample
        found = parts.unet(torch.cat([noisy, source], 1), timesteps, states).sample
    assert torch.equal(parts.unet.conv_in.bias, base.unet.conv_in.bias)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_an_eight_channel_base_is_taken_as_it_is(tiny_editor: Path) -> None:
    before = load(str(tiny_editor), Options()).unet.conv_in.weight
    _, parts = make(tiny_editor)
    assert torch.equal(parts.unet.conv_in.weight, before)


def test_source_is_the_unscaled_mode_and_target_a_scaled_sample(tiny_sd: Path) -> None:
    method, parts = make(tiny_sd, dropout=0.0)
    encoded = batch(method)
    posterior = parts.vae.encode(to_network(encoded["pixels"][:, 0])).latent_dist
    torch.testing.assert_close(encoded["source"], posterior.mode())
    seen: list[torch.Tensor] = []
    parts.unet.conv_in.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    parts.scheduler.alphas_cumprod = torch.ones_like(parts.scheduler.alphas_cumprod)  # no noise: the clean latents show
    method.loss(encoded, Draws(5, range(4)))
    drawn = encoded["mean"] + encoded["std"] * Draws(5, range(4)).normal(encoded["mean"])
    torch.testing.assert_close(seen[0][:, :4], drawn * parts.vae.config.scaling_factor)
    torch.testing.assert_close(seen[0][:, 4:], encoded["source"])


@settings(max_examples=20)
@given(st.floats(0.01, 0.33), st.integers(0, 2**31))
def test_dropout_is_one_draw_with_three_equal_parts(p: float, seed: int) -> None:
    no_text, no_source = draw_dropout(p, Draws(seed, range(20_000)))
    shares = {
        "text alone": (no_text & ~no_source).float().mean().item(),
        "both": (no_text & no_source).float().mean().item(),
        "source alone": (~no_text & no_source).float().mean().item(),
    }
    for share in shares.values():
        assert share == pytest.approx(p, abs=0.015)


def test_default_dropout_is_on() -> None:
    assert InstructEdit.Options().conditioning_dropout == 0.05


def test_full_fine_tune_trains_the_unet_and_nothing_else(tiny_sd: Path) -> None:
    method, parts = make(tiny_sd)
    method.loss(batch(method), Draws(1, range(4))).value.backward()
    assert all(p.grad is not None for p in parts.unet.parameters())
    assert all(p.grad is None for m in (parts.vae, parts.text_encoder) for p in m.parameters())


def test_lora_trains_adapters_and_the_whole_first_layer(tiny_sd: Path) -> None:
    method, parts = make(tiny_sd, adapter=Adapter(rank=4, alpha=8))
    trained = {n for n, p in parts.unet.named_parameters() if p.requires_grad}
    assert {"conv_in.weight", "conv_in.bias"} <= trained
    assert all("lora_" in n or n.startswith("conv_in.") for n in trained)
    assert sum(len(g["params"]) for g in method.parameter_groups()) == len(trained)


@pytest.mark.parametrize("adapter", [None, Adapter(rank=4, alpha=8)])
def test_the_text_encoder_is_trained_where_it_has_a_rate_of_its_own(tiny_sd: Path, adapter: Adapter | None) -> None:
    method, parts = make(tiny_sd, dropout=0.0, adapter=adapter, text_encoder_lr=3e-4)
    method.loss(batch(method), Draws(1, range(4))).value.backward()
    assert all(p.grad is not None for p in parts.text_encoder.parameters())
    *_, group = method.parameter_groups()
    assert group["lr"] == 3e-4
    assert {id(p) for p in group["params"]} == {id(p) for p in parts.text_encoder.parameters()}
    grouped = [p for g in method.parameter_groups() for p in g["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in method.trainable.parameters() if p.requires_grad}


@pytest.mark.parametrize("text_encoder_lr", [0.0, 3e-4])
def test_exported_lora_edits_like_the_trained_one(tiny_sd: Path, tmp_path: Path, text_encoder_lr: float) -> None:
    from editkit.models.editor import load_editor
    from tests.tiny import picture

    method, _ = make(tiny_sd, adapter=Adapter(rank=4, alpha=8), text_encoder_lr=text_encoder_lr)
    method._recipe = recipe(adapter=Adapter(rank=4, alpha=8), model=Model(family="stable_diffusion", base=str(tiny_sd)))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in method.trainable.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.05)
    facts = {"base": str(tiny_sd), "sampling": {"steps": 20}, "prepare": {"resolution": 32}}
    exported = method.export(tmp_path)
    (exported / METADATA).write_text(json.dumps(facts))
    ask = ([picture("red")], ["make the hair red"])
    expected = method._editor().edit(*ask, steps=3)[0]
    found = load_editor(str(exported)).edit(*ask, steps=3, text_guidance=7.5, image_guidance=1.5)[0]
    assert found.tobytes() == expected.tobytes()


def test_edit_equals_the_stock_pipeline_on_the_exported_model(tiny_editor: Path, tmp_path: Path) -> None:
    from editkit.models.editor import load_editor
    from tests.tiny import picture

    editor = load_editor(str(tiny_editor))
    source = picture("red")
    found = editor.edit([source], ["make the hair red"], steps=4, text_guidance=5.0, image_guidance=1.4, seed=9)[0]
    stock = StableDiffusionInstructPix2PixPipeline.from_pretrained(tiny_editor)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9 * 1_000_003))
    expected = stock(
        "make the hair red", image=source, latents=noise, num_inference_steps=4, guidance_scale=5.0,
        image_guidance_scale=1.4, output_type="np",
    ).images[0]  # fmt: skip
    pixels = torch.tensor(list(found.getdata())).view(32, 32, 3) / 255
    torch.testing.assert_close(pixels, torch.from_numpy(expected).float(), atol=1e-3 + 0.5 / 255, rtol=0)
