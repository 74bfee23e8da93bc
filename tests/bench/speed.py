"""The default recipe, the plain way and ours: `python -m tests.bench.speed [--rounds N] [--steps N]`. Figures, no assertions.

    plain     diffusers' modules in a loop as the method's description has it: pictures decoded, encoded by the VAE and the text
              tower in every step, AdamW and clipping as torch makes them, diffusers' EMAModel, attention as it comes
    uncached  editkit with data.cache_latents = false
    cached    editkit as the recipe says, from an empty cache

Each in a process of its own with all cores, in turn (A B C A B C), on the same model, data, batch, precision and number of
steps. A whole run is the filling of the cache and 1,300 steps at the measured pace. Ratios are taken within a round; medians
are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from editkit.data.cache import open_cache
from editkit.models.precision import computing
from editkit.models.stable_diffusion.load import Options, load
from editkit.models.surgery import widen_conv_in
from editkit.recipe.load import load_recipe
from editkit.train.batches import BatchSource
from editkit.train.loop import Trainer
from editkit.train.memory import keep_freed_memory, peak_bytes
from editkit.train.parallel import Layout
from editkit.train.record import machine_facts
from editkit.train.setup import make_stream, prepare_run
from editkit.train.survey import survey

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "instructpix2pix.toml"
WARM = 3  # steps before the clock
CPU = torch.device("cpu")


def plain(steps: int) -> dict[str, Any]:
    """The method on diffusers' modules; seconds a step."""
    import numpy as np
    from diffusers.training_utils import EMAModel

    from editkit.data.read import open_dataset

    recipe, _ = load_recipe(RECIPE)
    parts = load(recipe.model.base, Options())
    unet, vae, text, tokenizer, scheduler = parts.unet, parts.vae, parts.text_encoder, parts.tokenizer, parts.scheduler
    widen_conv_in(unet, 8)
    vae.requires_grad_(False)
    unet.train()
    text.train()
    trained = [*unet.parameters(), *text.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=recipe.optim.lr)
    average = EMAModel(trained, decay=0.999)
    dataset: Any = open_dataset(str(ROOT / recipe.data.train), "train")

    def collate(examples: list[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pairs = [[np.asarray(p.open()) for p in (e.source, e.target)] for e in examples]
        pixels = torch.from_numpy(np.stack(pairs)).permute(1, 0, 4, 2, 3).float() / 127.5 - 1
        texts = [e.instructions[0] for e in examples]
        tokens = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return pixels[0], pixels[1], tokens

    size = recipe.train.batch_size
    loader = torch.utils.data.DataLoader(dataset, batch_size=size, shuffle=True, collate_fn=collate, drop_last=True)

    def step(batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
        source, target, tokens = batch
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(target).latent_dist.sample() * vae.config["scaling_factor"]
                condition = vae.encode(source).latent_dist.mode()
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, 1000, (size,))
            noisy = scheduler.add_noise(latents, noise, timesteps)
            states = text(tokens)[0]
            found = unet(torch.cat([noisy, condition], dim=1), timesteps, states).sample
            loss = nn.functional.mse_loss(found.float(), scheduler.get_velocity(latents, noise, timesteps).float())
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(trained)
        loss.item()

    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for batch in itertools.islice(batches, WARM):
        step(batch)
    started = time.perf_counter()
    for batch in itertools.islice(batches, steps):
        step(batch)
    return {"step_s": (time.perf_counter() - started) / steps, "fill_s": 0.0, "peak_bytes": peak_bytes(CPU)}


class _Clock:
    """Seconds spent in named functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

        return timed


def ours(steps: int, cached: bool) -> dict[str, Any]:
    """editkit's own engine on the recipe; seconds a step and where they go."""
    keep_freed_memory()
    recipe, source = load_recipe(RECIPE, [f"data.cache_latents={str(cached).lower()}"])
    setup = prepare_run(recipe, source)
    looked = survey(setup.train, setup.all_usable, setup.method, recipe.data)
    store = open_cache() if cached else None
    batches = BatchSource(recipe, setup.method, setup.train, looked, make_stream(setup), CPU, store)
    started = time.perf_counter()
    batches.fill_cache()
    fill_s = time.perf_counter() - started
    trainer = Trainer(recipe, setup.method, batches, CPU, Layout(recipe, CPU))
    for _ in range(WARM):
        trainer.dry_step()
    clock = _Clock()
    with _timed(trainer, clock):
        waited, started = trainer._window.waited, time.perf_counter()
        for _ in range(steps):
            trainer.dry_step()
        seconds = time.perf_counter() - started
    waited = trainer._window.waited - waited
    result = {
        "step_s": seconds / steps,
        "fill_s": fill_s,
        "peak_bytes": peak_bytes(CPU),
        "shares": {name: round(s / seconds, 4) for name, s in clock.seconds.items()},
        "overhead": round(1 - sum(clock.seconds.values()) / seconds, 4),
        "data_wait": round(waited / seconds, 4),
    }
    if cached:
        result |= _efficiency(trainer, (clock.seconds["forward"] + clock.seconds["backward"]) / steps)
    batches.close()
    return result


def _timed(trainer: Trainer, clock: _Clock) -> Any:
    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(trainer._method, "loss", clock.wrap("forward", trainer._method.loss)))
    stack.enter_context(patch.object(torch.Tensor, "backward", clock.wrap("backward", torch.Tensor.backward)))
    stack.enter_context(patch.object(trainer._optimizer, "step", clock.wrap("optimizer", trainer._optimizer.step)))
    return stack


def _efficiency(trainer: Trainer, seconds: float) -> dict[str, Any]:
    """FLOP/s of forward and backward, and of plain matrix products in the shapes of the layers that cost most."""
    shapes: dict[tuple[int, int, int], float] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            m, k = output.shape[0] * output.shape[2] * output.shape[3], module.weight[0].numel()
        else:
            m, k = output.numel() // output.shape[-1], module.weight.shape[1]
        shape = (m, k, module.weight.shape[0])
        shapes[shape] = shapes.get(shape, 0.0) + 2.0 * m * k * shape[2]

    layers = [m for m in trainer._method.trainable.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_hook(note) for m in layers]
    with FlopCounterMode(display=False) as counter:
        trainer.dry_step()
    for hook in hooks:
        hook.remove()
    largest = sorted(shapes, key=shapes.__getitem__, reverse=True)[:5]
    rate = sum(shapes[s] for s in largest) / sum(shapes[s] / _matmul_rate(*s) for s in largest)
    flops = counter.get_total_flops()
    return {
        "gflop_a_step": round(flops / 1e9, 1),
        "gflop_s": round(flops / seconds / 1e9, 1),
        "matmul_gflop_s": round(rate / 1e9, 1),
        "of_matmul": round(flops / seconds / rate, 3),
        "largest_shapes": largest,
    }


def _matmul_rate(m: int, k: int, n: int) -> float:
    a, b = torch.randn(m, k, dtype=torch.bfloat16), torch.randn(k, n, dtype=torch.bfloat16)
    with torch.no_grad(), computing(CPU, "bf16"):
        times = []
        for _ in range(8):
            started = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - started)
    return 2.0 * m * k * n / statistics.median(times[2:])


WAYS: dict[str, Callable[[int], dict[str, Any]]] = {
    "plain": plain,
    "uncached": lambda steps: ours(steps, cached=False),
    "cached": lambda steps: ours(steps, cached=True),
}


def _children(rounds: int, steps: int) -> Iterator[dict[str, dict[str, Any]]]:
    for _ in range(rounds):
        found = {}
        for way in WAYS:
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, "-m", "tests.bench.speed", "--way", way, "--steps", str(steps)]
                environment = os.environ | {"EDITKIT_CACHE": cache, "EDITKIT_QUIET": "1"}
                if way != "plain":
                    environment["THP_MEM_ALLOC_ENABLE"] = "1"  # as `editkit.cli` has it
                done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
            found[way] = json.loads(done.stdout.splitlines()[-1])
        yield found


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of all three in turn")
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each")
    parser.add_argument("--way", choices=list(WAYS), help="measure one, in this process")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(WAYS[options.way](options.steps)))
        return
    rounds = list(_children(options.rounds, options.steps))
    recipe, _ = load_recipe(RECIPE)
    size, whole = recipe.train.batch_size, recipe.train.steps
    rates = {w: [size * whole / (r[w]["fill_s"] + whole * r[w]["step_s"]) for r in rounds] for w in WAYS}
    against = {
        way: {
            "speed": _spread([ours / plain for ours, plain in zip(rates[way], rates["plain"], strict=True)]),
            "peak_memory": _spread([r[way]["peak_bytes"] / r["plain"]["peak_bytes"] for r in rounds]),
        }
        for way in ("uncached", "cached")
    }
    result = {
        "machine": machine_facts(CPU),
        "against_plain": against,
        "samples_per_s_over_a_run": {w: _spread(v) for w, v in rates.items()},
        "rounds": rounds,
    }
    print(json.dumps(result, indent=1))


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


if __name__ == "__main__":
    main()
