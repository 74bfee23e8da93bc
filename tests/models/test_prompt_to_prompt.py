"""Two pictures of one scene: what is shared between them is shared exactly, and what is not is plain sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline

from editkit.errors import UserError
from editkit.models.stable_diffusion import prompt_to_prompt
from editkit.models.stable_diffusion.load import Options, StableDiffusion, load
from editkit.models.stable_diffusion.prompt_to_prompt import PromptPair, sample_pairs, source_attention

RED, BLUE = "make the hair red", "a portrait with a blue hat"
STEPS = 4


@pytest.fixture(scope="module")
def parts(tiny_sd: Path) -> StableDiffusion:
    loaded = load(str(tiny_sd), Options())
    with torch.no_grad():  # random weights hardly look at the text
        for name, weight in loaded.unet.named_parameters():
            if "attn" in name:
                weight.mul_(4)
    return loaded


def _sample(parts: StableDiffusion, *pairs: PromptPair, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return sample_pairs(parts, pairs, steps=STEPS, resolution=32, **options)


@pytest.mark.parametrize(
    ("sampler", "dtype"), [("euler_ancestral", torch.float32), ("ddim", torch.float32), ("ddim", torch.bfloat16)]
)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_equal_prompts_give_equal_pictures_bit_by_bit(
    parts: StableDiffusion, share: float, sampler: str, dtype: torch.dtype
) -> None:
    source, target = _sample(
        parts, PromptPair(RED, RED, 5, share, 7.5), PromptPair(BLUE, BLUE, 6, share, 7.5), sampler=sampler, dtype=dtype
    )
    assert torch.equal(source, target)
    assert not torch.equal(source[0], source[1])


def test_without_sharing_the_target_is_plain_sampling_of_its_prompt_from_that_noise(parts: StableDiffusion) -> None:
    source, target = _sample(parts, PromptPair(RED, BLUE, 5, 0.0, 7.5))
    for made, prompt in ((source, RED), (target, BLUE)):
        pipeline: Any = parts.pipeline(StableDiffusionPipeline)
        pipeline.scheduler = EulerAncestralDiscreteScheduler.from_config(parts.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(5)
        noise = torch.randn(1, 4, 8, 8, generator=generator)
        stock = pipeline(prompt, latents=noise, generator=generator, num_inference_steps=STEPS, guidance_scale=7.5,
                         height=32, width=32, output_type="pt").images  # fmt: skip
        torch.testing.assert_close((made + 1) / 2, stock, atol=2e-4, rtol=0)
    assert not torch.allclose(source, target, atol=1e-2)


def test_sharing_changes_the_target_and_never_the_source(parts: StableDiffusion) -> None:
    made = [_sample(parts, PromptPair(RED, BLUE, 5, share, 7.5)) for share in (0.0, 0.5, 1.0)]
    assert all(torch.equal(source, made[0][0]) for source, _ in made)
    assert not torch.equal(made[0][1], made[1][1])
    assert not torch.equal(made[1][1], made[2][1])


def test_the_maps_of_the_target_are_the_sources_for_the_asked_share_of_the_steps(
    parts: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def watched(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        seen.append((query @ key.mT * scale).softmax(-1))
        return attend(query, key, value, scale=scale)

    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(prompt_to_prompt.F, "scaled_dot_product_attention", _only_ours(attend, watched))
    _sample(parts, PromptPair(RED, BLUE, 5, 0.5, 7.5), PromptPair(RED, BLUE, 5, 0.0, 7.5))
    assert len(seen) % STEPS == 0
    layers = len(seen) // STEPS
    assert layers == sum(name.endswith("attn1.processor") for name in parts.unet.attn_processors)
    for number, maps in enumerate(seen):
        step = number // layers
        source, target = maps.chunk(2)  # rows: two pairs without text, the same two with text
        for with_text in (0, 2):
            assert torch.equal(source[with_text], target[with_text]) == (step < 0.5 * STEPS)
        if step > 0:
            assert not torch.equal(source[1], target[1])


def _only_ours(attend: Any, watched: Any) -> Any:
    """The self-attention calls with a scale and nothing else; the others are diffusers'."""

    def call(*tensors: torch.Tensor, **options: Any) -> torch.Tensor:
        if not options.keys() - {"scale"} and len(tensors) == 3 and "scale" in options:
            return watched(*tensors, **options)
        return attend(*tensors, **options)

    return call


def test_the_noise_of_a_pair_does_not_depend_on_its_batch(parts: StableDiffusion) -> None:
    pairs = [PromptPair(RED, BLUE, seed, 0.3, 5.0) for seed in (1, 2, 3)]
    together = _sample(parts, *pairs)
    alone = [_sample(parts, pair) for pair in pairs]
    for i in range(3):
        torch.testing.assert_close(together[1][i], alone[i][1][0], atol=2e-4, rtol=0)


def test_our_processor_computes_what_the_stock_one_does(parts: StableDiffusion) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(4, 4, 8, 8), torch.tensor(500), torch.randn(4, 32, 32)
    with torch.no_grad():
        stock = parts.unet(*inputs).sample
        with source_attention(parts.unet):
            ours = parts.unet(*inputs).sample
        assert torch.equal(parts.unet(*inputs).sample, stock)
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=0)


def test_the_processors_come_back_after_a_failure(parts: StableDiffusion) -> None:
    before = dict(parts.unet.attn_processors)
    with pytest.raises(RuntimeError, match="stop"), source_attention(parts.unet):
        raise RuntimeError("stop")
    assert dict(parts.unet.attn_processors) == before


def test_a_network_without_self_attention_is_refused(parts: StableDiffusion) -> None:
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
        mid_block_type=None, norm_num_groups=4, cross_attention_dim=32,
    )  # fmt: skip
    with pytest.raises(UserError, match="without plain self-attention"), source_attention(plain):
        pass
