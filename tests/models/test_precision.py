"""Checkpointed, compiled and other attention: the same loss and the same gradient."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import nn

from editkit.data.draws import Draws
from editkit.errors import UserError
from editkit.methods.instruct_edit import InstructEdit
from editkit.models.attention import attention_report, check_attention, set_attention
from editkit.models.networks import prepare_networks, trained_networks
from editkit.models.precision import computed_in, computing, describe_numerics, dtype_of
from editkit.models.stable_diffusion.load import Options, StableDiffusion, load
from editkit.recipe.schema import Adapter, Train
from tests.methods.test_instruct_edit import batch, recipe

CPU = torch.device("cpu")


def made(
    tiny_sd: Path, adapter: Adapter | None = None, text_encoder_lr: float = 1e-4, **train: object
) -> tuple[InstructEdit, StableDiffusion]:
    torch.manual_seed(0)  # adapters are drawn
    chosen = recipe(train=Train(**({"steps": 1, "batch_size": 4} | train)), adapter=adapter)
    parts = load(str(tiny_sd), Options())
    method = InstructEdit(chosen, InstructEdit.Options(conditioning_dropout=0.0, text_encoder_lr=text_encoder_lr), parts)
    prepare_networks(chosen.train, method.trainable, method.parameter_groups(), 1e-3, CPU)
    return method, parts


def gradients(method: InstructEdit, precision: str = "fp32", attention: str = "auto") -> dict[str, torch.Tensor]:
    method.trainable.train()
    with computing(CPU, precision, attention):
        loss = method.loss(batch(method), Draws(1, range(4))).value
    loss.backward()
    found = {n: p.grad.clone() for n, p in method.trainable.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=tolerance, rtol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("attention", ["auto", "flash"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("adapter", [None, Adapter(rank=4, alpha=4)])
def test_checkpointed_gradients_are_the_same(tiny_sd: Path, adapter: Adapter | None, precision: str, attention: str) -> None:
    expected = gradients(made(tiny_sd, adapter, attention=attention)[0], precision, attention)
    method, parts = made(tiny_sd, adapter, gradient_checkpointing=True, attention=attention)
    calls: dict[str, int] = {"unet": 0, "text": 0}

    def count(which: str) -> object:
        return lambda *_: calls.update({which: calls[which] + 1})

    parts.unet.down_blocks[0].resnets[0].register_forward_pre_hook(count("unet"))
    parts.text_encoder.encoder.layers[0].mlp.register_forward_pre_hook(count("text"))
    assert_equal(gradients(method, precision, attention), expected, 1e-6)
    assert calls == {"unet": 2, "text": 2}, "each block is computed twice"


def test_networks_are_the_trained_ones(tiny_sd: Path) -> None:
    method, parts = made(tiny_sd)
    assert trained_networks(method.trainable) == [parts.unet, parts.text_encoder]
    parts.text_encoder.requires_grad_(False)
    assert trained_networks(method.trainable) == [parts.unet]


@pytest.mark.parametrize("attention", ["sdpa", "math", "flash"])
def test_attention_kernels_agree(tiny_sd: Path, attention: str) -> None:
    expected = gradients(made(tiny_sd)[0])
    assert_equal(gradients(made(tiny_sd, attention=attention)[0], attention=attention), expected, 1e-5)


def test_the_named_kernel_is_the_one_that_runs(tiny_sd: Path) -> None:
    def kernels(attention: str) -> set[str]:
        method, _ = made(tiny_sd, attention=attention)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            gradients(method, attention=attention)
        return {e.key for e in profile.key_averages() if "attention" in e.key}

    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in kernels("flash")
    for name in ("math", "auto"):
        assert "aten::_scaled_dot_product_attention_math" in kernels(name)
        assert not any("flash" in k for k in kernels(name))


@pytest.mark.parametrize("name", ["efficient", "cudnn"])
def test_a_kernel_that_the_device_lacks_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f'"{name}" does not run on cpu in float32'):
        check_attention(name, CPU, torch.float32)


def test_xformers_is_refused_before_the_first_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    import editkit.environment

    monkeypatch.setattr(editkit.environment, "is_installed", lambda extra: False)
    with pytest.raises(UserError, match=r"needs xformers, which is not installed; pip install .*editkit\[xformers\]"):
        check_attention("xformers", CPU, torch.float32)
    monkeypatch.setattr(editkit.environment, "is_installed", lambda extra: True)
    with pytest.raises(UserError, match='found "xformers" on cpu, where it has no kernel'):
        check_attention("xformers", CPU, torch.float32)


def test_both_kinds_of_network_are_switched(tiny_sd: Path) -> None:
    unet = load(str(tiny_sd), Options()).unet
    set_attention(unet, "flash", CPU)
    assert {type(p) for p in unet.attn_processors.values()} == {AttnProcessor2_0}
    set_attention(unet, "xformers", CPU)
    assert {type(p).__name__ for p in unet.attn_processors.values()} == {"XFormersAttnProcessor"}
    with pytest.raises(UserError, match='use "flash"'):
        set_attention(load(str(tiny_sd), Options()).unet, "flash-attn", CPU)
    flux = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    set_attention(flux, "auto", CPU)
    assert {p._attention_backend.value for p in flux.attn_processors.values()} == {"_native_math"}


def test_the_header_says_what_is_used_and_what_is_missing() -> None:
    assert attention_report(CPU)[0] == "attention: math, plain matrix products"
    lines = "\n".join(describe_numerics(Train(steps=1, batch_size=1, compile=True, offload="base"), CPU, ["a note"]))
    assert "numbers: cpu, no autocast (fp32), trained weights in fp32\na note\n" in lines
    assert "compiled block by block, channels last, base offloaded" in lines
    for extra, module in (("xformers", "xformers"), ("flash-attn", "flash_attn"), ("torchao", "torchao")):
        assert (f"without {extra}: " in lines) == (importlib.util.find_spec(module) is None)


def test_a_processor_without_bf16_computes_in_fp32_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Train(steps=1, batch_size=1, precision="bf16")
    monkeypatch.setattr("editkit.models.precision.has_bf16", lambda _: True)
    assert computed_in(asked, CPU) == (asked, [])
    monkeypatch.setattr("editkit.models.precision.has_bf16", lambda _: False)
    fitting, (note,) = computed_in(asked, CPU)
    assert fitting == Train(steps=1, batch_size=1)
    assert note.startswith("  instead of bf16: this processor has no instructions for bf16")
    assert computed_in(fitting, CPU) == (fitting, [])
    for stored in ({"weights": "bf16"}, {"base": "int8"}):
        kept = Train(steps=1, batch_size=1, precision="bf16", **stored)
        assert computed_in(kept, CPU)[0] == kept
        assert computed_in(kept, CPU)[1][0].startswith("  slow: this processor"), "what is stored in bf16 is computed in it"


def test_a_model_that_is_loaded_in_bf16_where_that_is_imitated_is_said_to_be_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for there, slow in ((True, False), (False, True)):
        monkeypatch.setattr("editkit.models.precision.has_bf16", lambda _, there=there: there)
        assert dtype_of("bf16", CPU, "[build.render]") == torch.bfloat16
        assert ("[build.render] precision: slow: " in capsys.readouterr().err) == slow
        assert dtype_of("fp32", CPU, "[build.render]") == torch.float32
        assert not capsys.readouterr().err


def test_compiled_blocks_compute_the_same(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Traced and differentiated as always, and run by torch: its C++ for these few blocks takes minutes to be compiled.
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="aot_eager"))
    expected = gradients(made(tiny_sd, text_encoder_lr=0.0)[0])
    method, parts = made(tiny_sd, text_encoder_lr=0.0, compile=True)
    blocks = [m for m in parts.unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
    assert blocks
    assert all(b._compiled_call_impl is not None for b in blocks)
    assert_equal(gradients(method), expected, 1e-4)
