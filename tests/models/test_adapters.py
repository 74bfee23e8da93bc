"""Every kind of adapter: nothing at first, the same after a round trip, loaded by the stock libraries, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file

from editkit.errors import UserError
from editkit.models.adapters import (
    CONV_IN_FILE,
    LORA_FILE,
    PEFT_CONFIG,
    PEFT_FILE,
    adapter_parameters,
    add_adapter,
    is_adapter,
    load_adapter,
    save_adapter,
)
from editkit.models.stable_diffusion.load import Options, load
from editkit.models.surgery import widen_conv_in
from editkit.recipe.load import dump, load_recipe
from editkit.recipe.schema import Adapter
from tests.methods.test_instruct_edit import recipe

PRESET = ["to_q", "to_k", "to_v", "to_out.0"]
WIDER = [*PRESET, "proj_in", "conv1"]  # convolutions of one pixel and of nine
KINDS = {
    **{name: Adapter(name=name, rank=4, alpha=8, targets=WIDER) for name in ("lora", "rslora", "dora", "loha", "lokr")},
    "oft": Adapter(name="oft", block_size=8, targets=PRESET),
}


def network(tiny_sd: Path) -> torch.nn.Module:
    unet = load(str(tiny_sd), Options()).unet
    widen_conv_in(unet, 8)
    return unet


@torch.no_grad()
def answer(unet: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 8, 8, 8, generator=generator)
    states = torch.randn(2, 32, 32, generator=generator)
    return unet.eval()(inputs, torch.tensor([10, 700]), states).sample


def trained(tiny_sd: Path, options: Adapter) -> torch.nn.Module:
    """A network whose adapter and first layer have moved."""
    unet = network(tiny_sd)
    add_adapter(unet, options, PRESET)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*adapter_parameters(unet), *unet.conv_in.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return unet


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_nothing_and_is_all_that_trains(tiny_sd: Path, kind: str) -> None:
    unet = network(tiny_sd)
    before, plain = answer(unet), {n: p.detach().clone() for n, p in unet.named_parameters()}
    add_adapter(unet, KINDS[kind], PRESET)
    torch.testing.assert_close(answer(unet), before, atol=1e-6, rtol=0)
    added = adapter_parameters(unet)
    assert {id(p) for p in added} == {id(p) for p in unet.parameters() if p.requires_grad}
    kept = {n.replace(".base_layer", ""): p for n, p in unet.named_parameters() if not p.requires_grad}
    assert kept.keys() == plain.keys()
    assert all(torch.equal(kept[n], plain[n]) for n in plain)
    answer(trained(tiny_sd, KINDS[kind]))
    assert (answer(trained(tiny_sd, KINDS[kind])) - before).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_an_adapter_learns(tiny_sd: Path, kind: str) -> None:
    unet = trained(tiny_sd, KINDS[kind]).train()
    unet(torch.ones(1, 8, 8, 8), torch.tensor([500]), torch.randn(1, 32, 32)).sample.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter_parameters(unet))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_answers_as_the_trained_one(tiny_sd: Path, tmp_path: Path, kind: str) -> None:
    unet = trained(tiny_sd, KINDS[kind])
    save_adapter(unet, tmp_path)
    assert is_adapter(tmp_path)
    by_diffusers = kind in ("lora", "rslora", "dora")
    expected = {LORA_FILE} if by_diffusers else {PEFT_CONFIG, PEFT_FILE}
    assert {p.name for p in tmp_path.iterdir() if p.name != "README.md"} == expected | {CONV_IN_FILE}
    pipeline = load(str(tiny_sd), Options()).pipeline(StableDiffusionInstructPix2PixPipeline)
    load_adapter(pipeline, tmp_path)
    torch.testing.assert_close(answer(pipeline.unet), answer(unet), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stock_libraries_load_it_without_a_line_of_ours(tiny_sd: Path, tmp_path: Path, kind: str) -> None:
    unet = trained(tiny_sd, KINDS[kind])
    save_adapter(unet, tmp_path)
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipe.unet.conv_in = torch.nn.Conv2d(8, 16, 3, padding=1)
    pipe.unet.conv_in.load_state_dict(load_file(tmp_path / CONV_IN_FILE))
    pipe.unet.register_to_config(in_channels=8)
    if (tmp_path / PEFT_CONFIG).is_file():
        PeftModel.from_pretrained(pipe.unet, tmp_path)
    else:
        pipe.unet.load_lora_adapter(tmp_path, weight_name=LORA_FILE, prefix="unet")
    torch.testing.assert_close(answer(pipe.unet), answer(unet), atol=1e-6, rtol=0)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ask = {"image": torch.zeros(1, 3, 32, 32), "latents": noise, "num_inference_steps": 2, "output_type": "np"}
    with_adapter = pipe("make the hair red", **ask).images
    pipe.unet = network(tiny_sd)
    assert abs(with_adapter - pipe("make the hair red", **ask).images).max() > 1e-3


@pytest.mark.parametrize("targets", [PRESET, WIDER])
def test_a_lora_loads_through_the_pipeline_too(tiny_sd: Path, tmp_path: Path, targets: list[str]) -> None:
    unet = trained(tiny_sd, Adapter(rank=4, alpha=8, targets=targets))
    save_adapter(unet, tmp_path)
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained(tiny_sd, safety_checker=None)
    widen_conv_in(pipe.unet, 8)
    pipe.unet.conv_in.load_state_dict(load_file(tmp_path / CONV_IN_FILE))
    pipe.load_lora_weights(tmp_path, weight_name=LORA_FILE)
    torch.testing.assert_close(answer(pipe.unet), answer(unet), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["rslora", "dora"])
def test_what_sets_a_kind_of_lora_apart_arrives(tiny_sd: Path, tmp_path: Path, kind: str) -> None:
    """The same numbers as a plain LoRA would be another network."""
    save_adapter(trained(tiny_sd, KINDS[kind]), tmp_path)
    pipeline = load(str(tiny_sd), Options()).pipeline(StableDiffusionInstructPix2PixPipeline)
    load_adapter(pipeline, tmp_path)
    (config,) = pipeline.unet.peft_config.values()
    assert (config.use_rslora, config.use_dora) == (kind == "rslora", kind == "dora")
    assert config.lora_alpha == 8


def test_a_pattern_finds_what_the_endings_find(tiny_sd: Path) -> None:
    by_endings, by_pattern = network(tiny_sd), network(tiny_sd)
    add_adapter(by_endings, Adapter(rank=2), ["to_q", "to_k"])
    add_adapter(by_pattern, Adapter(rank=2, targets=r".*\.to_[qk]"), ["to_v"])
    names = [{n for n, p in unet.named_parameters() if p.requires_grad} for unet in (by_endings, by_pattern)]
    assert names[0] == names[1]
    one = network(tiny_sd)
    add_adapter(one, Adapter(rank=2, targets=r"mid_block\..*attn1\.to_q"), [])
    assert len(adapter_parameters(one)) == 2


def test_a_frozen_base_keeps_its_numbers_and_the_adapter_has_fp32(tiny_sd: Path) -> None:
    unet = network(tiny_sd).to(torch.bfloat16)
    add_adapter(unet, Adapter(rank=4), PRESET)
    assert {p.dtype for p in adapter_parameters(unet)} == {torch.float32}
    assert {p.dtype for p in unet.parameters() if not p.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Adapter(targets=["to_q", "to_w"]), "found to_w, which fits no module; they are called conv_in"),
        (Adapter(targets="attn"), "found attn, which fits no module"),
        (Adapter(targets="(to_q"), "no regular expression"),
        (Adapter(targets=["to_q", "norm1"]), "norm1"),
        (Adapter(targets=".*conv_in"), "trained whole beside every adapter"),
        (
            Adapter(name="oft", block_size=8, targets=["to_q", "conv1"]),
            "the convolution .*conv1; oft stands beside linear layers",
        ),
        (Adapter(name="oft", block_size=5), "found 5; .* takes 32 numbers, which it does not divide"),
    ],
)
def test_targets_that_cannot_be_are_said_and_nothing_is_added(tiny_sd: Path, options: Adapter, words: str) -> None:
    with pytest.raises(UserError, match=words):
        add_adapter(network(tiny_sd), options, PRESET)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "oft", "rank": 16}, 'found rank, which "oft" does not have; its size is block_size'),
        ({"name": "oft", "rank": 4, "alpha": 4}, "found rank and alpha"),
        ({"name": "lora", "block_size": 32}, 'found block_size, which "lora" does not have; its size is rank and alpha'),
        ({"block_size": 32}, "found block_size"),
        ({"name": "boft"}, "expected|should be"),
    ],
)
def test_what_a_kind_does_not_have_is_refused(values: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Adapter.model_validate(values)


@pytest.mark.parametrize("options", [Adapter(), *KINDS.values(), Adapter(targets=".*to_q"), Adapter(name="oft")])
def test_a_resolved_recipe_loads_back_equal(tmp_path: Path, options: Adapter) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(dump(recipe(adapter=options)))
    assert load_recipe(path)[0].adapter == options


def test_the_sizes_that_are_left_out() -> None:
    assert (Adapter().rank, Adapter().alpha, Adapter().block_size) == (16, 16, None)
    assert (Adapter(name="oft").rank, Adapter(name="oft").block_size) == (None, 32)
