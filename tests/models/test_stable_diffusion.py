"""What the family gives to every method: encoded texts, latents, and starting noise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny

from editkit.data.draws import Draws
from editkit.errors import UserError
from editkit.models.autoencoders import encode_pictures
from editkit.models.stable_diffusion.forward import (
    TEXT_BATCH,
    TextStates,
    concat_source,
    draw_latents,
    encode_texts,
    sample_latents,
)
from editkit.models.stable_diffusion.load import Options, StableDiffusion, UnetOptions, VaeOptions, load
from tests.tiny import TEXTS


@pytest.fixture(scope="module")
def parts(tiny_sd: Path) -> StableDiffusion:
    loaded = load(str(tiny_sd), Options())
    for module in loaded.modules.values():
        module.requires_grad_(False)
    return loaded


def test_known_texts_are_not_encoded_again_and_memory_is_bounded(parts: StableDiffusion) -> None:
    encoded: list[int] = []
    hook = parts.text_encoder.register_forward_hook(lambda _, inputs, output: encoded.append(len(output[0])))
    one_text = encode_texts(parts, TEXTS[:1])[0].nbytes
    encoded.clear()
    states = TextStates(parts, limit_bytes=3 * one_text)
    first = states(TEXTS[:2])
    assert torch.equal(states([TEXTS[1], TEXTS[0]]), first.flip(0))
    assert encoded == [TEXT_BATCH], "every batch has one size, or the states would round differently"
    states(TEXTS[2:5])
    assert len(states._known) == 3
    assert torch.equal(states(TEXTS[:2]), first), "what was forgotten is encoded again, and is the same"
    assert encoded == [TEXT_BATCH] * 3
    assert all(s.untyped_storage().nbytes() == one_text for s in states._known.values()), "no view keeps a batch alive"
    hook.remove()


def test_a_batch_larger_than_the_memory_still_gets_all_its_states(parts: StableDiffusion) -> None:
    states = TextStates(parts, limit_bytes=1)
    assert torch.equal(states(TEXTS), encode_texts(parts, TEXTS))


def test_a_text_encoder_in_training_is_asked_every_time(tiny_sd: Path) -> None:
    trained = load(str(tiny_sd), Options())
    states = TextStates(trained)
    assert states(TEXTS[:1]).requires_grad
    before = states(TEXTS[:1]).detach()
    with torch.no_grad():
        next(p for n, p in trained.text_encoder.named_parameters() if n.endswith("final_layer_norm.weight")).mul_(2.0)
    assert not torch.equal(states(TEXTS[:1]), before)


def test_texts_longer_than_the_encoder_are_cut_and_shorter_ones_padded(parts: StableDiffusion) -> None:
    states = encode_texts(parts, ["red", "make the hair red " * 50])
    assert states.shape == (2, 32, 32)


def test_noise_of_a_picture_does_not_depend_on_its_batch(parts: StableDiffusion) -> None:
    together = sample_latents(parts, 5, 32, seed=4)
    apart = torch.cat([sample_latents(parts, 2, 32, seed=4), sample_latents(parts, 3, 32, seed=4, first=2)])
    assert torch.equal(together, apart)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, sample_latents(parts, 5, 32, seed=5))


def test_latents_are_a_scaled_draw_of_the_posterior() -> None:
    mean, std = torch.full((2000, 1, 1, 1), 3.0), torch.full((2000, 1, 1, 1), 0.5)
    drawn = draw_latents(mean, std, 0.2, Draws(0, range(2000)))
    assert drawn.mean().item() == pytest.approx(0.6, abs=0.01)
    assert drawn.std().item() == pytest.approx(0.1, abs=0.01)


def test_the_noisy_target_comes_first() -> None:
    noisy, source = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    assert concat_source(noisy, source)[0, :, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_saved_parts_load_again_to_the_last_bit(parts: StableDiffusion, tmp_path: Path) -> None:
    parts.save(tmp_path / "copy")
    again = load(str(tmp_path / "copy"), Options())
    for name, module in parts.modules.items():
        for key, tensor in module.state_dict().items():
            assert torch.equal(again.modules[name].state_dict()[key], tensor), f"{name}.{key}"
    assert again.scheduler.config == parts.scheduler.config
    assert again.tokenizer(TEXTS).input_ids == parts.tokenizer(TEXTS).input_ids
    again.save(tmp_path / "third")
    for path in (tmp_path / "third").rglob("*.json"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), f"{path} names the folder that it was read from"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "found no Stable Diffusion folder"),
        (["unet/config.json"], "cannot be loaded as UNet2DConditionModel"),
    ],
)
def test_a_folder_that_is_no_model_is_named(files: list[str], words: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=words):
        load(str(tmp_path), Options())


def test_a_part_that_nobody_gave_is_named(tmp_path: Path, parts: StableDiffusion) -> None:
    parts.vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match=r"found no unet in .*\[model.unet\] table"):
        _ = load(str(tmp_path), Options()).unet


def test_a_posterior_is_that_of_the_stock_autoencoder(parts: StableDiffusion) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    stock = parts.vae.encode(images).latent_dist
    posterior = encode_pictures(parts.vae, images)
    assert torch.equal(posterior.mean, stock.mode())
    torch.manual_seed(0)
    ours = posterior.sample()
    torch.manual_seed(0)
    assert torch.equal(ours, stock.sample())


def test_an_autoencoder_that_is_not_variational_has_a_point_and_survives_saving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny = load("", Options(vae=VaeOptions(kind="tiny", channels=[8, 8], layers=1)))
    tiny.save(tmp_path)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    posterior = encode_pictures(tiny.vae, images)
    assert posterior.mean.shape == (2, 4, 8, 8)
    assert tiny.vae_scale == 2
    assert torch.equal(posterior.sample(), posterior.mean)
    again = load(str(tmp_path), Options()).vae
    assert isinstance(again, AutoencoderTiny)
    assert torch.equal(encode_pictures(again, images).mean, posterior.mean)
    assert torch.equal(again.decode(posterior.mean).sample, tiny.vae.decode(posterior.mean).sample)
    assert "block_out_channels" not in caplog.text, "the stock warning about its own key"
    unread = load(str(tmp_path), Options(), weights=False).vae
    assert [p.shape for p in unread.parameters()] == [p.shape for p in again.parameters()]


def test_a_pooled_text_is_heard_with_the_time_and_survives_saving(tiny_sd: Path, tmp_path: Path) -> None:
    table = UnetOptions(sample_size=8, channels=[16, 32], attention=[False, True], heads=2, groups=8, pooled_text=True)
    parts = load(str(tiny_sd), Options(unet=table))
    states = encode_texts(parts, ["add a beard", "remove the glasses"]).detach()
    with torch.no_grad():
        for name, layer in parts.unet.named_modules():
            if name.endswith("attn2.to_v"):
                layer.weight.zero_()  # nothing comes through cross-attention
        first, second = parts.unet(torch.ones(2, 4, 8, 8), torch.tensor([500, 500]), states).sample
    assert not torch.allclose(first, second, atol=1e-4)
    parts.save(tmp_path)
    again = load(str(tmp_path), Options())
    with torch.no_grad():
        made = again.unet(torch.ones(2, 4, 8, 8), torch.tensor([500, 500]), states).sample
    assert torch.equal(made, torch.stack([first, second]))
