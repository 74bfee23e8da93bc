"""How fast the lab is here: `python -m tests.bench.rates [--pairs N] [--rounds N]`. Figures, no assertions.

Pairs a second: building, with one process a core. Samples a second: training steps of the default recipe's UNet, with the two
layouts of its convolutions in turn (A B A B), because a machine's speed drifts; the median of each and their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from editkit.build import build
from editkit.data.draws import Draws
from editkit.data.sampler import Planned
from editkit.methods.instruct_edit import InstructEdit
from editkit.models.precision import computing, to_channels_last
from editkit.models.stable_diffusion.load import Options, load
from editkit.recipe.load import load_recipe
from editkit.train.batches import Taken
from editkit.train.loop import Trainer
from editkit.train.parallel import Layout
from editkit.train.record import machine_facts

ROOT = Path(__file__).parents[2]
STEPS = 5  # timed in a round, behind one that is not


def pairs_per_second(count: int) -> float:
    """Builds `count` avatar edits at 64 px into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        build(str(ROOT / "data_specs" / "avatar_edits.toml"), f"{folder}/data", count)
        return 2 * count / (time.perf_counter() - started)  # that many of both splits


class _OneBatch:
    def __init__(self, size: int, side: int) -> None:
        noise = torch.randn(3, size, 4, side, side)
        self._batch = {"source": noise[0], "mean": noise[1], "std": noise[2].abs() * 0.1, "text": ["make the hair red"] * size}

    def take(self) -> Taken:
        rows = tuple(range(len(self._batch["text"])))
        return Taken(self._batch, Draws(0, rows), Planned(0, rows, rows), len(rows), 0.0)

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        return


def samples_per_second(channels_last: bool) -> float:
    """Whole steps of the loop: loss, gradient, clipping, AdamW, average."""
    recipe, _ = load_recipe(ROOT / "recipes" / "instructpix2pix.toml")
    parts = load(recipe.model.base, Options())
    if channels_last:
        to_channels_last(parts.unet)
    device = torch.device("cpu")
    batches = _OneBatch(recipe.train.batch_size, recipe.data.resolution // parts.vae_scale)
    method = InstructEdit(recipe, InstructEdit.Options(), parts)
    trainer = Trainer(recipe, method, batches, device, Layout(recipe, device))
    with computing(device, recipe.train.precision):
        trainer.dry_step()
    started = time.perf_counter()
    for _ in range(STEPS):
        trainer.dry_step()
    return STEPS * recipe.train.batch_size / (time.perf_counter() - started)


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs to build, of each split")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each layout")
    options = parser.parse_args()
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.rounds):
        for layout, found in rates.items():
            found.append(samples_per_second(layout))
    medians = {layout: statistics.median(found) for layout, found in rates.items()}
    result = {
        "machine": machine_facts(torch.device("cpu")),
        "pairs_per_s": round(pairs_per_second(options.pairs), 1),
        "samples_per_s": {"plain": round(medians[False], 1), "channels_last": round(medians[True], 1)},
        "channels_last_against_plain": round(medians[True] / medians[False], 3),
        "rounds": {"plain": [round(x, 1) for x in rates[False]], "channels_last": [round(x, 1) for x in rates[True]]},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
