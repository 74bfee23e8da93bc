"""A base in fewer bits: an adapter learns beside it, the base stays, and the adapter fits the base in fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from editkit.data.draws import Draws
from editkit.errors import UserError
from editkit.methods.instruct_edit import InstructEdit
from editkit.models.adapters import load_adapter, save_adapter
from editkit.models.precision import computing
from editkit.models.quantize import describe_base, quantize_base
from editkit.models.stable_diffusion.load import Options, load
from editkit.recipe.schema import Adapter, Train
from tests.methods.test_instruct_edit import batch, recipe

CPU = torch.device("cpu")


def quantized(tiny_sd: Path, base: str, precision: str = "fp32") -> tuple[InstructEdit, object]:
    if base == "fp8":
        pytest.importorskip("torchao", reason='"fp8" needs torchao, in the extra "quantization"')
    chosen = recipe(adapter=Adapter(rank=8, alpha=8), train=Train(steps=1, batch_size=4, base=base, precision=precision))
    parts = load(str(tiny_sd), Options())
    return InstructEdit(chosen, InstructEdit.Options(conditioning_dropout=0.0), parts), parts


def numbers(p: torch.Tensor) -> torch.Tensor:
    return p.detach().dequantize() if hasattr(p, "qdata") else p.detach()


@pytest.mark.parametrize(
    ("base", "precision"), [("nf4", "fp32"), ("nf4", "bf16"), ("int8", "fp32"), ("bf16", "bf16"), ("fp8", "fp32")]
)
def test_an_adapter_learns_beside_it(tiny_sd: Path, tmp_path: Path, base: str, precision: str) -> None:
    method, parts = quantized(tiny_sd, base, precision)
    frozen = {n: p.detach().clone() for n, p in parts.unet.named_parameters() if not p.requires_grad}
    assert all(p.dtype == torch.float32 for p in parts.unet.parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW([{"lr": 1e-2, **g} for g in method.parameter_groups()])
    given, losses = batch(method), []
    for _ in range(40):
        with computing(CPU, precision):
            loss = method.loss(given, Draws(1, range(4))).value
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    for name, p in parts.unet.named_parameters():
        assert name not in frozen or torch.equal(numbers(p), numbers(frozen[name]).to(p.dtype)), name

    save_adapter(parts.unet, tmp_path)
    plain = load(str(tiny_sd), Options())
    from diffusers import StableDiffusionInstructPix2PixPipeline

    load_adapter(plain.pipeline(StableDiffusionInstructPix2PixPipeline), tmp_path)
    latents, states = torch.randn(2, 8, 8, 8), torch.randn(2, 32, 32)
    with torch.no_grad(), computing(CPU, precision):
        expected = parts.unet(latents, torch.tensor([10, 700]), states).sample.float()
        found = plain.unet(latents, torch.tensor([10, 700]), states).sample.float()
    assert (found - expected).norm() / expected.norm() < {"nf4": 0.15}.get(base, 0.03)


def test_the_bytes_are_those_of_the_format(tiny_sd: Path) -> None:
    unet = load(str(tiny_sd), Options()).unet
    linear = sum(m.weight.numel() for m in unet.modules() if type(m) is torch.nn.Linear)
    quantize_base(unet, "int8")
    rows = sum(m.out_features for m in unet.modules() if isinstance(m, torch.nn.Linear))
    assert f"{4 * linear / 2**20:.2f} MiB of fp32 in {(linear + 4 * rows) / 2**20:.2f} MiB" in describe_base(unet)
    assert not any(p.requires_grad for p in unet.parameters())


def test_what_is_trained_can_be_left_out(tiny_sd: Path) -> None:
    unet = load(str(tiny_sd), Options()).unet
    quantize_base(unet, "bf16", keep=["conv_in"])
    assert (unet.conv_in.weight.dtype, unet.conv_out.weight.dtype) == (torch.float32, torch.bfloat16)
    assert unet.conv_norm_out.weight.dtype == torch.float32


def test_absence_is_said(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import editkit.environment

    monkeypatch.setattr(editkit.environment, "is_installed", lambda extra: False)
    with pytest.raises(UserError, match=r'train.base = "nf4" needs bitsandbytes.*editkit\[quantization\]'):
        quantize_base(load(str(tiny_sd), Options()).unet, "nf4")
