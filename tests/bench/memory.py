"""What lab recipes really take here: `python -m tests.bench.memory [--rows NAME ...] [--steps N]`. Figures, no assertions.

Every row is a child process that trains a few real steps: its own data set, caches, checkpoint and preview. The kernel's
resident peak is read and reset between the phases. The rows are kept in `editkit/train/measured.json`, from which
`editkit.train.estimate` takes the base line of the libraries and the pace of this kind of machine, and against which its
test compares the estimates.
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
from typing import Any

import numpy as np

MIB = 2**20
ROOT = Path(__file__).parents[2]
KEPT = ROOT / "editkit" / "train" / "measured.json"
EDIT, LORA = "instructpix2pix.toml", "instructpix2pix_lora.toml"
ROWS: dict[str, tuple[str, list[str]]] = {
    "edit": (EDIT, []),
    "edit, batch 16": (EDIT, ["train.batch_size=16"]),
    "edit, fp32": (EDIT, ["train.precision=fp32"]),
    "edit, checkpointing": (EDIT, ["train.gradient_checkpointing=true"]),
    "edit, two EMA, post hoc": (EDIT, ["train.ema_decay=[0.99, 0.999]", "train.post_hoc_ema=true"]),
    "edit, no cache": (EDIT, ["data.cache_latents=false"]),
    "edit, prodigy": (EDIT, ["optim.name=prodigy", "optim.lr=1.0", "method.text_encoder_lr=1.0"]),
    "LoRA": (LORA, []),
    "LoRA, batch 16": (LORA, ["train.batch_size=16"]),
    "LoRA, nf4 base": (LORA, ["train.base=nf4"]),
    "LoRA, fp32, checkpointing": (LORA, ["train.precision=fp32", "train.gradient_checkpointing=true"]),
    "tiny-sd": ("lab/tiny_sd.toml", []),
    "tiny-sd-vae": ("lab/tiny_sd_vae.toml", []),
    "tiny-sd-vae, batch 64": ("lab/tiny_sd_vae.toml", ["train.batch_size=64"]),
    "judge-clip": ("lab/judge_clip.toml", []),
    "judge-clip, fp32": ("lab/judge_clip.toml", ["train.precision=fp32"]),
    "judge-reader": ("lab/judge_reader.toml", []),
}
SHORT = [
    "train.log_every=2", "train.save_every=0", "train.preview_every=0", "evaluate.pairs=0", "evaluate.preview_pairs=64",
    "evaluate.steps=2", "evaluate.text_grid=[]", "evaluate.image_grid=[]", "optim.warmup=1",
]  # fmt: skip
SPEC = """\
format = 1
name = "{kind}"
kind = "{kind}"
licence = "as stated"
[build]
builder = "avatars"
train = {train}
test = {test}
size = 64
seed = 3
"""


class Phases:
    """Resident peaks between two marks, MiB."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}
        self.reset()

    def reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is resident now

    def mark(self, name: str) -> None:
        self.peaks[name] = max(self.peaks.get(name, 0.0), status("VmHWM"))
        self.reset()


def status(field: str) -> float:
    """A field of /proc/self/status, MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def run_row(recipe_path: str, overrides: list[str], steps: int) -> dict[str, Any]:
    """Trains in this process and measures; the current folder has the data.

    Returns:
        "base_MiB" of the interpreter with its libraries, "phases_MiB", "peak_MiB" of all phases, "s_per_step".
    """
    from editkit.methods import method_class
    from editkit.models import family
    from editkit.recipe.load import load_recipe
    from editkit.runs import new_run_folder
    from editkit.train.memory import keep_freed_memory
    from editkit.train.run import _Session, prepare_run

    keep_freed_memory()
    recipe, source = load_recipe(recipe_path, [*overrides, f"train.steps={steps}", *SHORT])
    method_class(recipe.method.name), family(recipe.model.family)  # their libraries belong to the base line
    base = status("VmRSS")
    phases = Phases()
    setup = prepare_run(recipe, source)
    session = _Session(setup, new_run_folder(recipe.name), resuming=False)
    phases.mark("set up")
    trainer: Any = session._trainer
    seconds: list[float] = []
    one_step, save = trainer._one_step, session._save

    def timed(hooks: Any) -> Any:
        if not seconds:
            phases.mark("caches")
        started = time.perf_counter()
        logs = one_step(hooks)
        seconds.append(time.perf_counter() - started)
        return logs

    def saved(step: int, state: Any) -> None:
        phases.mark("steps")
        save(step, state)
        phases.mark("save")

    trainer._one_step, session._save = timed, saved
    session.run()
    with trainer.shown():
        session._preview(trainer.step)
    phases.mark("preview")
    return {
        "base_MiB": round(base, 1),
        "phases_MiB": {k: round(v, 1) for k, v in phases.peaks.items()},
        "peak_MiB": round(max(phases.peaks.values()), 1),
        "s_per_step": round(statistics.median(seconds[1:]), 4),
    }


def measure(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """One row, in a child of its own."""
    recipe, overrides = ROWS[name]
    kind = "edit_pairs" if recipe in (EDIT, LORA) else "captioned_images"
    overrides = [*overrides, f"data.train={folder / kind}.toml"]
    code = "import json, sys; from tests.bench.memory import run_row; "
    code += "print(json.dumps(run_row(*json.loads(sys.argv[1]))))"
    argument = json.dumps([str(ROOT / "recipes" / recipe), overrides, steps])
    environment = {**os.environ, "EDITKIT_CACHE": str(folder / f"cache-{time.time_ns()}"), "PYTHONPATH": str(ROOT)}
    environment["THP_MEM_ALLOC_ENABLE"] = "1"  # as `editkit.cli` has it
    done = subprocess.run([sys.executable, "-c", code, argument], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {"recipe": recipe, "settings": ROWS[name][1], **found}


def calibrate(kept: dict[str, Any], folder: Path) -> None:
    """Sets what no computation gives; see `editkit.train.estimate`.

    "libraries_MiB" by family: the base line. What the steps take beyond all that is computed is taken for one constant,
    "first_use_MiB", and a share of the activations by method, "workspace_share": least squares of the relative errors. What
    a preview takes beyond, "preview_MiB" by precision, is the middle between the least and the most of those rows where it
    made the peak.
    """
    from editkit.recipe.load import load_recipe
    from editkit.train.estimate import calibrated_as

    rows = list(kept["rows"].values())
    recipes = [load_recipe(str(ROOT / "recipes" / row["recipe"]), row["settings"])[0] for row in rows]

    def estimates() -> list[Any]:
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return [estimate_row(row, folder) for row in rows]

    def by_name(values: dict[str, list[float]], middle: Any) -> dict[str, float]:
        every = [v for some in values.values() for v in some]
        return {n: round(middle(v), 2) for n, v in sorted(values.items())} | {"other": round(middle(every), 2)}

    base: dict[str, list[float]] = {}
    for row, recipe in zip(rows, recipes, strict=True):
        base.setdefault(recipe.model.family, []).append(row["base_MiB"])
    none = {"other": 0.0}
    kept |= {"libraries_MiB": by_name(base, statistics.median), "first_use_MiB": none, "workspace_share": none}
    kept["preview_MiB"] = none

    names = [calibrated_as(recipe) for recipe in recipes]
    of = sorted(set(names))
    system, wanted = np.zeros((len(rows), 1 + len(of))), np.zeros(len(rows))
    for i, (row, found) in enumerate(zip(rows, estimates(), strict=True)):
        measured = row["phases_MiB"]["steps"]
        activations = sum(c.bytes for c in found.components if c.name.startswith("activations")) / MIB
        system[i, 0], system[i, 1 + of.index(names[i])] = 1 / measured, activations / measured
        wanted[i] = 1 - found.phases["forward and backward"] / MIB / measured
    constant, *shares = np.linalg.lstsq(system, wanted, rcond=None)[0]
    kept["first_use_MiB"] = {"other": round(float(constant), 1)}
    kept["workspace_share"] = by_name({n: [max(0.0, float(s))] for n, s in zip(of, shares, strict=True)}, statistics.median)

    beyond: dict[str, list[float]] = {}
    for row, recipe, found in zip(rows, recipes, estimates(), strict=True):
        if row["phases_MiB"]["preview"] > row["phases_MiB"]["save"] + 1:
            beyond.setdefault(recipe.train.precision, []).append(row["phases_MiB"]["preview"] - found.phases["preview"] / MIB)
    kept["preview_MiB"] = by_name(beyond, lambda v: (min(v) + max(v)) / 2)
    KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def estimate_row(row: dict[str, Any], folder: Path) -> Any:
    """The estimate of a kept row; `folder` gets the data sets."""
    from editkit.recipe.load import load_recipe
    from editkit.train.estimate import estimate
    from editkit.train.machines import Machine

    kind = "edit_pairs" if row["recipe"] in (EDIT, LORA) else "captioned_images"
    spec = folder / f"{kind}.toml"
    recipe, _ = load_recipe(str(ROOT / "recipes" / row["recipe"]), [*row["settings"], *SHORT, f"data.train={spec}"])
    return estimate(recipe, Machine("kept rows", "cpu", 2**40, {"float32": 1e11}, 1e10, 0.0, "memory alone"))


def main() -> None:
    """Measures the rows and writes them to the kept file; the others stay."""
    import torch

    from editkit.data.read import open_dataset
    from editkit.train.record import machine_facts

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), help="names of rows")
    parser.add_argument("--steps", type=int, default=6, help="of each row; the first is not timed")
    options = parser.parse_args()
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {"rows": {}}
    kept["machine"] = {**machine_facts(torch.device("cpu")), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for kind in ("edit_pairs", "captioned_images"):
            (folder / f"{kind}.toml").write_text(SPEC.format(kind=kind, train=1024, test=64), encoding="utf-8")
            open_dataset(str(folder / f"{kind}.toml"), "train")  # built here, so that no row has the builder's memory in it
        for name in options.rows:
            kept["rows"][name] = measure(name, folder, options.steps)
            KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
            print(name, kept["rows"][name]["phases_MiB"], kept["rows"][name]["s_per_step"], flush=True)
        os.chdir(folder)
        calibrate(kept, folder)


if __name__ == "__main__":
    main()
