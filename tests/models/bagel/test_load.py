"""Every key of the released checkpoint has its place, both layouts go there and back, and what is refused says why."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Generator
from pathlib import Path
from random import Random

import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from editkit.errors import UserError
from editkit.lab.scene_prompts import sample_prompt
from editkit.models import family
from editkit.models.bagel.config import BagelConfig, LatentConfig, bagel_7b, bagel_tiny
from editkit.models.bagel.keys import released_name, released_vae_name, released_vae_shape
from editkit.models.bagel.load import BagelParts, Options, load
from editkit.models.bagel.network import Bagel
from editkit.models.bagel.packing import pack
from editkit.models.bagel.parts import NoisedImage, Text
from editkit.models.bagel.released import FLUX_VAE, LLM_CONFIG, VAE_WEIGHTS, WEIGHTS, save_released
from editkit.models.bagel.tokenizer import decode, encode, special_tokens, train_tokenizer
from tests.models.bagel.small import SIZES, TOKENS, small_bagel, trace

TEXTS = ["a photo of a red star", "<ins>Add two Blue hearts.</ins><des>Two hearts.</des>", "The image is correct."]

TOKENIZER = train_tokenizer(TEXTS, 300)

# Every key and shape of the released file, as design notes on it list them; {a,b} and {0-27} stand for several.
W, M, KV, VW, VM = 3584, 18944, 512, 1152, 4304
RELEASED: dict[str, tuple[int, ...]] = {
    "language_model.model.embed_tokens.weight": (152064, W),
    "language_model.lm_head.weight": (152064, W),
    "language_model.model.layers.{0-27}.self_attn.q_proj{,_moe_gen}.weight": (W, W),
    "language_model.model.layers.{0-27}.self_attn.q_proj{,_moe_gen}.bias": (W,),
    "language_model.model.layers.{0-27}.self_attn.{k,v}_proj{,_moe_gen}.weight": (KV, W),
    "language_model.model.layers.{0-27}.self_attn.{k,v}_proj{,_moe_gen}.bias": (KV,),
    "language_model.model.layers.{0-27}.self_attn.o_proj{,_moe_gen}.weight": (W, W),
    "language_model.model.layers.{0-27}.self_attn.{q,k}_norm{,_moe_gen}.weight": (128,),
    "language_model.model.layers.{0-27}.mlp{,_moe_gen}.{gate,up}_proj.weight": (M, W),
    "language_model.model.layers.{0-27}.mlp{,_moe_gen}.down_proj.weight": (W, M),
    "language_model.model.layers.{0-27}.{input,post_attention}_layernorm{,_moe_gen}.weight": (W,),
    "language_model.model.norm{,_moe_gen}.weight": (W,),
    "vit_model.vision_model.embeddings.patch_embedding.weight": (VW, 588),
    "vit_model.vision_model.embeddings.patch_embedding.bias": (VW,),
    "vit_model.vision_model.embeddings.position_embedding.weight": (4900, VW),
    "vit_model.vision_model.encoder.layers.{0-25}.layer_norm{1,2}.{weight,bias}": (VW,),
    "vit_model.vision_model.encoder.layers.{0-25}.self_attn.{q,k,v,out}_proj.weight": (VW, VW),
    "vit_model.vision_model.encoder.layers.{0-25}.self_attn.{q,k,v,out}_proj.bias": (VW,),
    "vit_model.vision_model.encoder.layers.{0-25}.mlp.fc1.weight": (VM, VW),
    "vit_model.vision_model.encoder.layers.{0-25}.mlp.fc1.bias": (VM,),
    "vit_model.vision_model.encoder.layers.{0-25}.mlp.fc2.weight": (VW, VM),
    "vit_model.vision_model.encoder.layers.{0-25}.mlp.fc2.bias": (VW,),
    "vit_model.vision_model.post_layernorm.{weight,bias}": (VW,),
    "connector.fc1.weight": (W, VW),
    "connector.fc2.weight": (W, W),
    "connector.fc{1,2}.bias": (W,),
    "vit_pos_embed.pos_embed": (4900, W),
    "vae2llm.weight": (W, 64),
    "vae2llm.bias": (W,),
    "llm2vae.weight": (64, W),
    "llm2vae.bias": (64,),
    "time_embedder.mlp.0.weight": (W, 256),
    "time_embedder.mlp.2.weight": (W, W),
    "time_embedder.mlp.{0,2}.bias": (W,),
    "latent_pos_embed.pos_embed": (4096, W),
}


def spelled_out(pattern: str) -> list[str]:
    pieces = re.split(r"\{([^}]*)\}", pattern)
    choices = []
    for number, piece in enumerate(pieces):
        ends = re.fullmatch(r"(\d+)-(\d+)", piece) if number % 2 else None
        choices.append(
            [str(n) for n in range(int(ends[1]), int(ends[2]) + 1)] if ends else piece.split(",") if number % 2 else [piece]
        )
    return ["".join(words) for words in itertools.product(*choices)]


def test_every_key_of_the_released_network_has_its_place_and_none_is_left() -> None:
    with torch.device("meta"):
        network = Bagel.of(bagel_7b())
    ours = {released_name(name): tuple(t.shape) for name, t in network.state_dict().items()}
    assert len(ours) == len(network.state_dict())
    theirs = {name: shape for pattern, shape in RELEASED.items() for name in spelled_out(pattern)}
    assert ours == theirs
    assert sum(t.numel() for t in network.state_dict().values()) == pytest.approx(14.61e9, rel=1e-3)
    with pytest.raises(KeyError):
        released_name("something.else")


def test_the_autoencoders_keys_are_those_that_diffusers_reads() -> None:
    with torch.device("meta"):
        vae = AutoencoderKL(**FLUX_VAE)
    state = vae.state_dict()
    names = {ours: released_vae_name(ours, 4) for ours in state}
    assert len(set(names.values())) == len(state) == 244
    theirs = {k: torch.empty(released_vae_shape(k, tuple(state[o].shape)), device="meta") for o, k in names.items()}
    assert theirs["encoder.down.1.block.0.nin_shortcut.weight"].shape == (256, 128, 1, 1)
    assert theirs["decoder.up.0.block.2.conv2.weight"].shape == (128, 128, 3, 3)
    assert theirs["decoder.mid.attn_1.proj_out.weight"].shape == (512, 512, 1, 1)
    read = convert_ldm_vae_checkpoint(theirs, vae.config)
    assert {k: v.shape for k, v in read.items()} == {k: v.shape for k, v in state.items()}


def flux_sizes() -> BagelConfig:
    return SIZES.model_copy(update={"latent": LatentConfig(channels=16, patch=2, side=6, px=8)})


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path, None, None]:
    """A small network in the released layout; while it is there, FLUX.1's autoencoder is narrower than it is."""
    folder = tmp_path_factory.mktemp("released")
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save_pretrained(folder)
    sizes = flux_sizes()
    sizes = sizes.model_copy(update={"decoder": sizes.decoder.model_copy(update={"vocab_size": len(tokenizer)})})
    narrow = {**FLUX_VAE, "block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("editkit.models.bagel.released.FLUX_VAE", narrow)
        save_released(small_bagel(sizes), AutoencoderKL(**narrow), folder, torch.float32)
        yield folder


def test_the_released_layout_goes_there_and_back(released: Path, tmp_path: Path) -> None:
    parts = load(str(released), Options())
    assert parts.sizes == flux_sizes().model_copy(update={"decoder": parts.sizes.decoder})
    assert parts.vae is not None
    assert not any(t.is_meta for m in parts.modules.values() for t in m.state_dict().values())
    save_released(parts.network, parts.vae, tmp_path, torch.float32)
    for name in (WEIGHTS, VAE_WEIGHTS):
        before, after = load_file(released / name), load_file(tmp_path / name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[k], after[k]) for k in before)


def test_latents_of_the_autoencoder_are_decoded_and_encoded(released: Path) -> None:
    codec = load(str(released), Options()).codec
    pixels = torch.rand(2, 3, 16, 32) * 2 - 1
    with torch.no_grad():
        mean = codec.encode(pixels)
        assert mean.shape == (2, 16, 2, 4)
        assert torch.equal(codec.encode(pixels, torch.zeros_like(mean)), mean)
        assert not torch.equal(codec.encode(pixels, torch.ones_like(mean)), mean)
        decoded = codec.decode(mean)
        stock = codec.vae.decode(codec.vae.encode(pixels).latent_dist.mean).sample
    assert decoded.shape == pixels.shape
    torch.testing.assert_close(decoded, stock.clamp(-1, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("vae2llm.bias"), "lacks vae2llm.bias"),
        (lambda s: s.update({"other.weight": torch.zeros(1)}), "has besides other.weight"),
        (lambda s: s.update({"vae2llm.bias": torch.zeros(5)}), r"found vae2llm.bias of \(5,\); expected \(32,\)"),
    ],
)
def test_a_released_file_that_is_not_whole_is_refused(released: Path, tmp_path: Path, change, says: str) -> None:
    for path in released.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / WEIGHTS)
    change(state)
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=says):
        load(str(tmp_path), Options())


def tiny(**more) -> BagelParts:
    torch.manual_seed(0)
    return load("", Options(size="tiny", vocab_size=300, **more), lambda: TEXTS)


def test_our_layout_goes_there_and_back(tmp_path: Path) -> None:
    parts = tiny()
    parts.save(tmp_path)
    again = family("bagel").load(str(tmp_path), Options())
    assert again.sizes == parts.sizes
    assert again.tokens == parts.tokens
    state = parts.network.state_dict()
    assert all(torch.equal(t, state[k]) for k, t in again.network.state_dict().items())
    packed = pack([[trace(10, size=(32, 32))]], TOKENS, again.sizes)
    with torch.no_grad():
        assert torch.equal(again.network(packed).logits_NV, parts.network(packed).logits_NV)
    bare = load(str(tmp_path), Options(), weights=False)
    assert {k: t.shape for k, t in bare.network.state_dict().items()} == {k: t.shape for k, t in state.items()}


def test_the_tiny_network_is_small_and_its_tables_fit_its_pictures() -> None:
    sizes = bagel_tiny(1024, latent_patch=4, size=32)
    assert (sizes.latent.side, sizes.vit.max_px) == (8, 32)
    with torch.device("meta"):
        count = sum(t.numel() for t in Bagel.of(sizes).state_dict().values())
    assert count < 12e6
    assert 2 * count < 24e6  # bytes in fp16


def test_sizes_are_read_from_what_was_written() -> None:
    for sizes in (bagel_7b(), bagel_tiny()):
        assert BagelConfig.model_validate_json(sizes.model_dump_json()) == sizes


def test_a_new_network_says_nothing_of_latents_and_its_experts_can_be_made_alike() -> None:
    network = tiny().network
    assert not network.latent_out.weight.any()
    assert not torch.equal(network.layers[0].gen.q_proj.weight, network.layers[0].und.q_proj.weight)
    network.copy_experts()
    state = network.state_dict()
    pairs = [(k, k.replace(".und.", ".gen.").replace("norm_und", "norm_gen")) for k in state if "und" in k]
    assert len(pairs) > 60
    assert all(torch.equal(state[a], state[b]) for a, b in pairs)


def test_a_new_network_draws_the_latents_of_an_autoencoder_that_is_there(tmp_path: Path) -> None:
    parts = load("", Options(size="tiny", vae="lab:tiny-sd-vae"), lambda: TEXTS)
    assert parts.sizes.latent == LatentConfig(channels=4, patch=2, side=4, px=4)
    parts.save(tmp_path)
    again = load(str(tmp_path), Options())
    assert again.sizes == parts.sizes
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = again.codec.encode(pixels)
        stock = again.vae.encode(pixels).latent_dist.mean
        assert torch.equal(latents, stock * again.vae.config["scaling_factor"])
        assert (again.codec.decode(latents) - again.vae.decode(stock).sample.clamp(-1, 1)).abs().max() < 1e-4
    packed = pack([[[Text([5], then="image"), NoisedImage(latents[0], torch.randn(4, 8, 8), 0.5)]]], again.tokens, again.sizes)
    assert again.network(packed).velocity_ND.shape == (4 * 4, 4 * 2 * 2)
    assert (
        load("", Options(size="tiny", vae="lab:tiny-sd-vae"), lambda: TEXTS, weights=False).sizes.latent == again.sizes.latent
    )


@pytest.mark.parametrize(
    ("base", "options", "says"),
    [
        ("", Options(), "neither base nor size"),
        ("", Options(size="tiny", vae="lab:tiny-sd-vae", latent_patch=6), 'found 6 px; a latent of "lab:tiny-sd-vae" has 4'),
        ("", Options(size="tiny", vae="lab:tiny-clip"), "found no autoencoder"),
        ("lab:tiny-sd", Options(size="tiny"), "expected one of them"),
        ("lab:tiny-sd", Options(), "found no BAGEL"),
    ],
)
def test_what_is_no_bagel_is_refused(base: str, options: Options, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load(base, options, lambda: TEXTS)


def test_a_released_configuration_that_lacks_a_size_is_refused(released: Path, tmp_path: Path) -> None:
    for path in released.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / LLM_CONFIG).write_text('{"vocab_size": 5}')
    with pytest.raises(UserError, match="lacks 'hidden_size'"):
        load(str(tmp_path), Options())


def test_only_flux_latents_can_be_saved_in_the_released_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not FLUX"):
        save_released(small_bagel(), None, tmp_path)


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Z")), max_size=30))
@settings(max_examples=30)
def test_any_text_is_the_same_when_it_is_read_back(words: str) -> None:
    words = unicodedata.normalize("NFC", words)
    assert decode(TOKENIZER, encode(TOKENIZER, words)) == words


def test_special_tokens_are_told_apart_from_text_that_looks_like_them() -> None:
    tokens = special_tokens(TOKENIZER)
    ids = encode(TOKENIZER, "a <|vision_start|> star<|im_end|>")
    assert not {tokens.image_start, tokens.text_end} & set(ids)
    with pytest.raises(UserError, match="at least 261"):
        train_tokenizer(TEXTS, 260)


def test_prompts_of_the_scenes_are_a_few_tokens() -> None:
    rng = Random(0)
    prompts = [
        sample_prompt(rng, "train", tag)[1]["prompt"] for tag in ("counting", "position", "color_attr") for _ in range(30)
    ]
    tokenizer = train_tokenizer(prompts, 600)
    assert max(len(encode(tokenizer, prompt)) for prompt in prompts) < 24
