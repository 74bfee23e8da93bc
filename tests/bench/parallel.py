"""How far several processes are from one: `python -m tests.bench.parallel [--kind full] [--kind lora]`. No assertions.

Real processes over gloo on the tiny Stable Diffusion, fp32, the same examples in every step. Printed as JSON: for each layout
the largest absolute differences over all steps (loss, gradient norm) and over all numbers at the end (weights, averages).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from editkit.train.record import machine_facts
from tests.tiny import save_tiny_stable_diffusion
from tests.train.parallel_runs import KINDS, differences, divided, train, write_recipe

LAYOUTS = (("ddp", 2, 1), ("ddp", 4, 1), ("fsdp", 2, 1), ("fsdp", 4, 1), ("hsdp", 2, 2), ("hsdp", 4, 2))


def measure(folder: Path, base: Path, kind: str) -> list[dict[str, Any]]:
    """A row for every layout, and one for a run that was divided anew twice."""
    recipe = write_recipe(folder, base, kind)
    expected, _ = train(recipe)
    rows = []
    for layout, processes, shard in LAYOUTS:
        run, _ = train(recipe, divided(layout, processes, shard))
        rows.append({"layout": layout, "processes": processes, "shard": shard, **differences(run, expected)})
    run, _ = train(recipe, ["train.steps=1", *divided("fsdp", 2)])
    train(recipe, ["train.steps=2", *divided("fsdp", 4)], resume=run)
    train(recipe, resume=run)
    return [*rows, {"layout": "fsdp, fsdp, alone", "processes": "2, 4, 1", **differences(run, expected)}]


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="what is trained; both if not given")
    options = parser.parse_args()
    os.environ["EDITKIT_QUIET"] = "1"
    torch.set_num_threads(1)
    here = Path.cwd()
    result: dict[str, Any] = {"machine": machine_facts(torch.device("cpu"))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["EDITKIT_CACHE"] = str(folder / "cache")
        os.chdir(folder)
        try:
            base = save_tiny_stable_diffusion(folder / "sd")
            for kind in options.kind or KINDS:
                result[kind] = measure(folder, base, kind)
        finally:
            os.chdir(here)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
