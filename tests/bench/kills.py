"""Whether killed runs end like the one that nothing stopped: `python -m tests.bench.kills [--kills N] [--seed N]`.

Real processes train the tiny Stable Diffusion whole, then a LoRA with dropout; each is killed at random moments of a fill, a
step, a save, a preview and the report, and resumed. Printed as JSON: every kill, and whether the ends are bit-equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from editkit.train.record import machine_facts
from tests.tiny import save_tiny_stable_diffusion
from tests.train.kill import LORA, differing, train_to_the_end, train_under_kills, write_recipe

KINDS = {"save": 3, "step": 2, "preview 3": 1, "preview 6": 1, "fill": 1, "report": 1}  # how often each is tried
KILLS_A_RUN = 5  # more, and most of them would come to a run that is at its end


def measure(recipe: str, kills: int, seed: int, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Kills runs of a recipe until there were so many kills."""
    draw = random.Random(seed)
    whole, spent = train_to_the_end(recipe, changes)
    moments: list[dict[str, Any]] = []
    ends: list[list[str]] = []
    while len(moments) < kills:
        drawn = draw.choices(list(KINDS), KINDS.values(), k=min(KILLS_A_RUN, kills - len(moments)))
        kinds = sorted(drawn, key=["fill", "step", "save", "preview 3", "preview 6", "report"].index)
        run, found = train_under_kills(recipe, kinds, spent, draw.randrange(2**32), changes)
        ends.append(differing(run, whole))
        moments += [{"moment": k.moment, "kind": k.kind, "after_ms": round(k.after_ms, 1)} for k in found]
    return {
        "kills": len(moments),
        "runs": len(ends),
        "bit_equal_ends": sum(not end for end in ends),
        "differing": sorted({name for end in ends for name in end}),
        "kinds": dict(Counter(m["kind"] for m in moments)),
        "moments": moments,
    }


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of both recipes together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    os.environ["EDITKIT_QUIET"] = "1"
    torch.set_num_threads(1)
    here = Path.cwd()
    result: dict[str, Any] = {"machine": machine_facts(torch.device("cpu")), "seed": options.seed}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["EDITKIT_CACHE"] = str(folder / "cache")
        os.chdir(folder)
        try:
            full = write_recipe(folder, save_tiny_stable_diffusion(folder / "sd"))
            (folder / "lora.toml").write_text((folder / full).read_text() + LORA)
            result["full"] = measure(full, options.kills - options.kills // 2, options.seed)
            result["lora"] = measure("lora.toml", options.kills // 2, options.seed + 1)
        finally:
            os.chdir(here)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
