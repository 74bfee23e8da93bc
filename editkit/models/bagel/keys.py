"""The names that the released BAGEL-7B-MoT gives its weights: `ema.safetensors`, and FLUX.1's autoencoder in `ae.safetensors`.

Every weight has exactly one name on either side, and the numbers are the same; only one layer of the autoencoder is written
in another shape.
"""

from __future__ import annotations

import re

_GEN = "_moe_gen"  # behind the name of a module of the generation expert
_LAYER = re.compile(r"layers\.(\d+)\.(und|gen)\.(\w+)\.(.+)")
_IN_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")
_IN_LAYER = {"mlp": "mlp", "input_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}
_BEGINNINGS = {
    "embed_tokens.": "language_model.model.embed_tokens.",
    "lm_head.": "language_model.lm_head.",
    "norm_und.": "language_model.model.norm.",
    "norm_gen.": f"language_model.model.norm{_GEN}.",
    "vision.patch_embedding.": "vit_model.vision_model.embeddings.patch_embedding.",
    "vision.position_embedding.": "vit_model.vision_model.embeddings.position_embedding.",
    "vision.encoder.": "vit_model.vision_model.encoder.",
    "vision.post_layernorm.": "vit_model.vision_model.post_layernorm.",
    "connector.": "connector.",
    "latent_in.": "vae2llm.",
    "latent_out.": "llm2vae.",
    "time_embedder.linear_1.": "time_embedder.mlp.0.",
    "time_embedder.linear_2.": "time_embedder.mlp.2.",
    "vit_positions": "vit_pos_embed.pos_embed",
    "latent_positions": "latent_pos_embed.pos_embed",
}


def released_name(ours: str) -> str:
    """The released name of a weight of `Bagel`.

    Raises:
        KeyError: the network has no such weight.
    """
    found = _LAYER.fullmatch(ours)
    if found:
        number, expert, module, rest = found.groups()
        where = f"self_attn.{module}" if module in _IN_ATTENTION else _IN_LAYER[module]
        return f"language_model.model.layers.{number}.{where}{_GEN if expert == 'gen' else ''}.{rest}"
    for beginning, theirs in _BEGINNINGS.items():
        if ours.startswith(beginning):
            return theirs + ours.removeprefix(beginning)
    raise KeyError(ours)


# Of diffusers' AutoencoderKL, in this order, to the names of the latent-diffusion code that FLUX.1 keeps.
_VAE_RULES = (
    (r"(de|en)coder\.mid_block\.resnets\.(\d+)\.", lambda m, _: f"{m[1]}coder.mid.block_{int(m[2]) + 1}."),
    (r"(de|en)coder\.mid_block\.attentions\.0\.", r"\1coder.mid.attn_1."),
    (r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.down.\1.block.\2."),
    (r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", lambda m, n: f"decoder.up.{n - 1 - int(m[1])}.block.{m[2]}."),
    (r"decoder\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda m, n: f"decoder.up.{n - 1 - int(m[1])}.upsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"(attn_1)\.group_norm\.", r"\1.norm."),
    (r"(attn_1)\.to_([qkv])\.", r"\1.\2."),
    (r"(attn_1)\.to_out\.0\.", r"\1.proj_out."),
)
_POINTWISE = re.compile(r"mid\.attn_1\.(q|k|v|proj_out)\.weight")


def released_vae_name(ours: str, levels: int) -> str:
    """The name in `ae.safetensors` of a weight of diffusers' AutoencoderKL.

    Args:
        ours: its name there.
        levels: resolutions of the autoencoder; its decoder counts them from the other end.
    """
    for pattern, theirs in _VAE_RULES:
        ours = re.sub(pattern, theirs if isinstance(theirs, str) else (lambda m, f=theirs: f(m, levels)), ours)
    return ours


def released_vae_shape(theirs: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in `ae.safetensors`: the attention's matrices are convolutions of one pixel there.

    Args:
        theirs: of `released_vae_name`.
        shape: in diffusers' AutoencoderKL.
    """
    return (*shape, 1, 1) if _POINTWISE.search(theirs) else shape
