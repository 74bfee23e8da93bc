"""BAGEL in figures: how fast the tiny one trains and draws here, and what the published one would take of GPUs.

python -m tests.bench.bagel speed     samples/s of CPU time, forward and backward, and pictures/s
python -m tests.bench.bagel memory    GiB a device of the 7B: full on 8, LoRA, and LoRA beside NF4
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch._subclasses.fake_tensor import FakeTensorMode

from editkit.models.adapters import add_adapter
from editkit.models.bagel.config import BagelConfig, bagel_7b, bagel_tiny
from editkit.models.bagel.loss import sample_losses
from editkit.models.bagel.network import ADAPTER_TARGETS, Bagel
from editkit.models.bagel.packing import pack
from editkit.models.bagel.parts import CleanImage, NoisedImage, Part, SeenImage, SpecialTokens, Text, one_per_row
from editkit.models.bagel.session import Drawing, Session
from editkit.models.precision import checkpoint_gradients, computing
from editkit.models.quantize import quantize_base
from editkit.recipe.load import load_recipe
from editkit.recipe.schema import Adapter, Parallel, Recipe
from editkit.train.estimate import GIB, _settle
from editkit.train.machines import NAMED
from editkit.train.rehearsal import Rehearsal, _gathered, _weights
from editkit.train.tracing import Ledger, Work, to_fake

CPU = torch.device("cpu")
TOKENS = SpecialTokens(1, 2, 3, 4, 0)
ROOT = Path(__file__).parent.parent.parent
ROUNDS = 5


def words(count: int, vocabulary: int, **more: Any) -> Text:
    return Text(torch.randint(5, vocabulary, (count,)).tolist(), **more)


def trajectory(sizes: BagelConfig, px: int, vit_px: int, images: int) -> list[Part]:
    """Prompt, and pictures with plans; all but the last are looked at and inspected."""
    side, vocabulary = px // sizes.latent.px, sizes.decoder.vocab_size
    parts: list[Part] = [words(22, vocabulary)]
    for number in range(images):
        x = torch.randn(sizes.latent.channels, side, side)
        parts += [words(28, vocabulary, learn=True, then="image"), NoisedImage(x, torch.randn_like(x), 0.5)]
        if number < images - 1:
            parts += [CleanImage(x), SeenImage(torch.randn(3, vit_px, vit_px), then="text")]
            parts += [words(12, vocabulary, learn=True)]
    return parts


def speed() -> None:
    torch.set_num_threads(1)
    for patch in (8, 4):
        sizes = bagel_tiny(800, latent_patch=patch)
        network = Bagel.of(sizes)
        million = sum(p.numel() for p in network.parameters()) / 1e6
        print(f"tiny, {million:.2f} M parameters, {(32 // patch) ** 2} tokens a picture, one thread:")
        for images, count in ((1, 32), (3, 16)):
            packed = pack(one_per_row([trajectory(sizes, 32, 32, images) for _ in range(count)]), TOKENS, sizes)
            for precision in ("fp32", "bf16"):
                best = _quickest(lambda n=network, p=packed, kind=precision: _step(n, p, kind))
                length = packed.places.sample_BL.shape[1]
                print(f"  train, {images} pictures, {length} tokens, {precision}: {count / best:.1f} samples/s")
        network.eval()
        for precision in ("fp32", "bf16"):
            best = _quickest(lambda n=network, kind=precision: _draw(n, kind), 2)
            print(f"  draw 64 at once, 20 steps with text guidance, {precision}: {64 / best:.1f} pictures/s")


def _step(network: Bagel, packed: Any, precision: str) -> None:
    with computing(CPU, precision):
        loss = sample_losses(network(packed), packed).over_tokens()
    loss.backward()


def _draw(network: Bagel, precision: str) -> None:
    with computing(CPU, precision):
        session = Session(network, TOKENS, [[words(22, 800)] for _ in range(64)], list(range(64)))
        session.draw(range(64), (32, 32), Drawing(steps=20, interval=(0.0, 1.0)))


def _quickest(action: Callable[[], None], rounds: int = ROUNDS) -> float:
    """Seconds of CPU time, which others on the machine disturb least."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times)


ROWS = {  # name -> machine, processes, adapter, base, samples of two pictures at 512 px
    "7B full, 8 processes, fsdp": ("H100 80 GB", 8, False, "fp32", 2),
    "7B LoRA, bf16 base": ("H100 80 GB", 1, True, "bf16", 2),
    "7B LoRA, NF4 base": ("RTX 4090 24 GB", 1, True, "nf4", 1),
}


def memory() -> None:
    for name, (machine, processes, adapter, base, samples) in ROWS.items():
        recipe = row_recipe(processes, adapter, base)
        found, tokens = rehearse_7b(adapter, base, samples)
        one = _settle(recipe, NAMED[machine], found, None)  # ty: ignore
        fits = "fits" if one.fits else "does not fit"
        print(
            f"{name}, {tokens} tokens a device, {machine}: {one.peak / GIB:.1f} GiB, {fits}; {one.seconds_a_step:.1f} s a step"
        )
        for part in one.components:
            print(f"    {part.bytes / GIB:7.2f} GiB  {part.name} ({part.how})")


def row_recipe(processes: int, adapter: bool, base: str) -> Recipe:
    """The parts of a recipe that memory depends on; its data and its method are another's."""
    recipe, _ = load_recipe(str(ROOT / "recipes" / "instructpix2pix.toml"), ["data.train=none.toml"])
    train = recipe.train.model_copy(
        update={"precision": "bf16", "gradient_checkpointing": True, "ema_decay": 0.0, "base": base, "post_hoc_ema": False}
    )
    parallel = Parallel(processes=processes, layout="fsdp" if processes > 1 else "ddp")
    optim = recipe.optim.model_copy(update={"name": "adamw"})
    return recipe.model_copy(
        update={"train": train, "parallel": parallel, "optim": optim, "adapter": Adapter() if adapter else None}
    )


def rehearse_7b(adapter: bool, base: str, samples: int) -> tuple[Rehearsal, int]:
    """A pass of the 7B over fake tensors, as `editkit.train.rehearsal` takes a method through one; and its tokens."""
    sizes = bagel_7b()
    packed = pack([[trajectory(sizes, 512, 518, 2) for _ in range(samples)]], TOKENS, sizes)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with init_empty_weights(include_buffers=True):
        network = Bagel.of(sizes)
        if adapter:
            quantize_base(network, "bf16")  # in which the kernels of fewer bits unpack it, layer by layer
            add_adapter(network, Adapter(), ADAPTER_TARGETS)
    weights, gathered = _weights([network], network, base), _gathered(network)
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
    if not adapter:  # shards are gathered in what the autocast would cast them to, and their gradients summed in fp32
        for parameter in network.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        gathered //= 2
    to_fake([network], mode)
    checkpoint_gradients(network, CPU, "sdpa")
    network.train()
    tensors = {k: v for k, v in vars(packed).items() if isinstance(v, torch.Tensor)}
    with mode:
        faked = replace(packed, **{k: torch.empty_like(v, device="cpu") for k, v in tensors.items()})
    there = [*network.parameters(), *network.buffers()]  # counted as weights; their transposed views are no others
    with mode, Ledger(there) as step:
        with computing(CPU, "bf16", "sdpa"):
            loss = sample_losses(network(faked), faked).over_tokens()
            loss.backward()
        del loss
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        most, of_gradients = step.at_peak(gradients)
        work: Work = step.work()
    found = Rehearsal(
        weights=weights,
        trained=trained,
        resting=0,
        gathered=gathered,
        batch=sum(t.nbytes for t in tensors.values()),
        peak=most,
        gradients_at_peak=of_gradients,
        gradients=sum(4 * g.numel() for g in gradients),
        filling=0,
        preview=0,
        events={},
        work=work,
    )
    return found, sum(packed.added)


if __name__ == "__main__":
    {"speed": speed, "memory": memory}[sys.argv[1]]()
