"""How long a user waits: `python -m tests.bench.startup [--rounds N]`. Figures, no assertions.

    help    `editkit --help`, from the call to the prompt
    train   `editkit train recipes/instructpix2pix.toml`, from the call to the end of the first step, data set and caches being
            there; the child is killed then

The first round fills the caches and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from editkit.train.record import METRICS, machine_facts

ROOT = Path(__file__).parents[2]
EDITKIT = [sys.executable, "-m", "editkit"]
STEPS = ["--set", "train.log_every=1"]
LIMIT_S = 900


def to_help(folder: Path) -> float:
    """Seconds of `--help`."""
    started = time.perf_counter()
    subprocess.run([*EDITKIT, "--help"], cwd=folder, capture_output=True, check=True)
    return time.perf_counter() - started


def to_first_step(folder: Path) -> float:
    """Seconds until the first step is in the run's metrics; the data set is looked for in `folder`."""
    before = set(folder.glob("runs/*"))
    started = time.perf_counter()
    recipe = ROOT / "recipes" / "instructpix2pix.toml"
    with open(folder / "output.txt", "w") as output:
        child = subprocess.Popen([*EDITKIT, "train", str(recipe), *STEPS], cwd=folder, stdout=output, stderr=output)
    try:
        while time.perf_counter() - started < LIMIT_S and child.poll() is None:
            for run in set(folder.glob("runs/*")) - before:
                if (run / METRICS).is_file() and (run / METRICS).stat().st_size:
                    return time.perf_counter() - started
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    raise RuntimeError(f"no first step:\n{(folder / 'output.txt').read_text()[-2000:]}")


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of both, behind the first")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["EDITKIT_CACHE"] = str(folder / "cache")
        for name in ("data_specs", "recipes", "data"):
            if (ROOT / name).is_dir():
                (folder / name).symlink_to(ROOT / name)
        times = [{"help": to_help(folder), "train": to_first_step(folder)} for _ in range(options.rounds + 1)][1:]
    found = {what: [round(t[what], 2) for t in times] for what in ("help", "train")}
    result = {what: {"median_s": statistics.median(values), "all": values} for what, values in found.items()}
    print(json.dumps({"machine": machine_facts(torch.device("cpu")), **result}, indent=1))


if __name__ == "__main__":
    main()
