"""Two pictures of one scene from two prompts: Prompt-to-Prompt as InstructPix2Pix uses it (Brooks et al. 2023, section 3.1.2).

Both prompts are sampled side by side from the same noise, the noise that ancestral sampling adds included. For the first
share p of the steps the self-attention maps of the source take the place of the target's, in both branches of the guidance
(Hertz et al. 2022 exchange the cross-attention maps; InstructPix2Pix the self-attention ones). Large p keeps more.

Rows of a batch of B pairs are ordered: source without text, source, target without text, target, B each.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor

from editkit.errors import UserError
from editkit.models.stable_diffusion.forward import encode_texts
from editkit.models.stable_diffusion.load import StableDiffusion

SELF_ATTENTION = "attn1.processor"  # diffusers' name of the one that looks at the picture itself
SAMPLERS = {
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),  # the paper's
    "ddim": (DDIMScheduler, {"eta": 0.0}),
}


@dataclass(frozen=True, slots=True)
class PromptPair:
    """What one pair of pictures is sampled from.

    Attributes:
        source, target: the prompts.
        seed: of all the noise of this pair, which therefore does not depend on the batch it stands in.
        share: p, the share of the steps, counted from the first, in which the target looks as the source does; in [0, 1].
        guidance: of classifier-free guidance, for both pictures.
    """

    source: str
    target: str
    seed: int
    share: float
    guidance: float


class SourceAttention:
    """A self-attention whose target rows may take queries and keys, and so the map, from their source rows.

    `takes_B` says for which pairs; None = for none, and nothing is exchanged. Equal queries and keys give equal maps
    softmax(Q K^T / sqrt(d)), whichever kernel computes them, and no map has to be in memory.
    """

    def __init__(self) -> None:
        self.takes_B: torch.Tensor | None = None

    def __call__(
        self,
        attn: Any,  # diffusers' Attention, whose parts may be absent in other networks than these
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        query_RNC, key_RNC, value_RNC = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        if self.takes_B is not None:
            takes = torch.cat([self.takes_B, self.takes_B])[:, None, None]  # without and with text
            query_RNC, key_RNC = _from_source(query_RNC, takes), _from_source(key_RNC, takes)
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query_RNC, key_RNC, value_RNC))
        mixed_RHND = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        return attn.to_out[1](attn.to_out[0](mixed_RHND.transpose(1, 2).flatten(2)))


def _from_source(x_RNC: torch.Tensor, takes: torch.Tensor) -> torch.Tensor:
    source, target = x_RNC.chunk(2)
    return torch.cat([source, torch.where(takes, source, target)])


@contextmanager
def source_attention(unet: Any) -> Generator[SourceAttention, None, None]:
    """Puts one `SourceAttention` into all self-attentions of a UNet, and takes it out again."""
    before = dict(unet.attn_processors)
    shared = SourceAttention()
    mine = [name for name in before if name.endswith(SELF_ATTENTION)]
    if not mine or any(_has_norms(unet.get_submodule(name.removesuffix(".processor"))) for name in mine):
        raise UserError(f"found {type(unet).__name__} without plain self-attention; expected the UNet of a Stable Diffusion")
    unet.set_attn_processor({name: shared if name in mine else kept for name, kept in before.items()})
    try:
        yield shared
    finally:
        unet.set_attn_processor(before)


def _has_norms(attn: Any) -> bool:
    norms = (attn.group_norm, attn.spatial_norm, attn.norm_q, attn.norm_k)
    return any(n is not None for n in norms) or attn.residual_connection or attn.rescale_output_factor != 1


@torch.no_grad()
def sample_pairs(
    parts: StableDiffusion,
    pairs: Sequence[PromptPair],
    *,
    steps: int,
    resolution: int,
    sampler: str = "euler_ancestral",
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples both pictures of every pair.

    Args:
        parts: a whole text-to-image model; computes where it lies.
        pairs: B of them.
        steps: of the sampler.
        resolution: side of the pictures in px.
        sampler: a key of `SAMPLERS`.
        dtype: in what the UNet computes; everything else is fp32.

    Returns:
        (sources, targets), both (B, 3, resolution, resolution), in [-1, 1], on the model's device.
    """
    device, num = parts.unet.device, len(pairs)
    kind, extra = SAMPLERS[sampler]
    scheduler: Any = kind.from_config(parts.scheduler.config)
    scheduler.set_timesteps(steps, device=device)
    prompts = ["", *(p.source for p in pairs), *(p.target for p in pairs)]
    none_1TD, source_BTD, target_BTD = encode_texts(parts, prompts).split([1, num, num])
    none_BTD = none_1TD.expand(num, -1, -1)
    states_RTD = torch.cat([none_BTD, source_BTD, none_BTD, target_BTD])
    guidance = torch.tensor([p.guidance for p in pairs] * 2, device=device)[:, None, None, None]
    until_B = torch.tensor([round(p.share * steps) for p in pairs], device=device)
    # Two generators of one seed: source and target draw the same numbers at every step.
    generators = [torch.Generator().manual_seed(p.seed) for p in (*pairs, *pairs)]
    side = resolution // parts.vae_scale
    shape = (2 * num, parts.latent_channels, side, side)
    latents = randn_tensor(shape, generator=generators, device=device) * scheduler.init_noise_sigma
    with source_attention(parts.unet) as attention:
        for number, t in enumerate(scheduler.timesteps):
            takes_B = number < until_B
            attention.takes_B = takes_B if takes_B.any() else None
            scaled = scheduler.scale_model_input(latents, t)
            before, after = scaled.chunk(2)
            with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                prediction = parts.unet(torch.cat([before, before, after, after]), t, states_RTD).sample.float()
            plain, told = prediction.unflatten(0, (2, 2, num)).unbind(1)
            plain, told = plain.flatten(0, 1), told.flatten(0, 1)
            guided = plain + guidance * (told - plain)
            latents = scheduler.step(guided, t, latents, generator=generators, **extra).prev_sample
        images = parts.vae.decode(latents / parts.scaling_factor).sample.clamp(-1, 1)
    sources, targets = images.chunk(2)
    return sources, targets
