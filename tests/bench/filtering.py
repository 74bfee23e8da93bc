"""Does filtering pay? Editors trained on generated pairs that a filter kept, on as many that none saw, and on exact ones.

    python -m tests.bench.filtering FOLDER [--proposals 1200] [--steps 500] [--seeds 0 1 2] [--only KIND ...]

Builds `data_specs/generated_edits.toml` once without its filter; takes from it the pairs that the spec's filter keeps, and as
many drawn at random; and the first of `data_specs/avatar_edits.toml`, whose targets are exact. Trains the default recipe on
each with every seed, judges all on the same unseen avatars, and prints a table. What is in FOLDER already is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from editkit.build.filters import SCORES, FilterOptions, decide
from editkit.build.pipeline import build_spec, builder_of
from editkit.data.read import ParquetDataset
from editkit.data.spec import load_spec

SPEC, EXACT = Path("data_specs/generated_edits.toml"), "data_specs/avatar_edits.toml"
RECIPE = "recipes/instructpix2pix.toml"
KINDS = ("exact", "filtered", "unfiltered")
FIGURES = ("followed", "kept", "outside_l1", "clip_direction")


def without_filter(folder: Path, proposals: int) -> Path:
    """The spec's pairs, all of them."""
    out = folder / "all"
    if not out.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        text = SPEC.read_text(encoding="utf-8")
        for name in SCORES:
            text = re.sub(rf"^{name} = .*$", f"{name} = -1.0", text, flags=re.M)
        text = re.sub(r"^keep = .*$", "keep = 1000", text, flags=re.M)
        text = re.sub(r"^train = .*$", f"train = {proposals}", text, flags=re.M)
        text = re.sub(r"^test = .*$", "test = 0", text, flags=re.M)
        (folder / "all.toml").write_text(text, encoding="utf-8")
        build_spec(folder / "all.toml", out)
    return out


def subsets(folder: Path, everything: Path) -> dict[str, int]:
    """Writes "filtered" and "unfiltered", as many pairs each; returns how many."""
    spec, source = load_spec(SPEC)
    options: FilterOptions = builder_of(spec, source)._options.filter
    said = [json.loads(text) for text in ParquetDataset(everything, "train").columns("provenance")["provenance"]]
    why = decide([{"key": one["proposal"]} for one in said], [one["scores"] for one in said], options)
    kept = np.flatnonzero([not reason for reason in why])
    drawn = np.sort(np.random.default_rng(0).choice(len(said), len(kept), replace=False))
    for name, chosen in (("filtered", kept), ("unfiltered", drawn)):
        if not (folder / name / "dataset.json").is_file():
            _write(folder / name, everything, chosen)
    return {"drawn": len(said), "pairs": len(kept)}


def _write(out: Path, everything: Path, chosen: np.ndarray) -> None:
    (out / "data").mkdir(parents=True, exist_ok=True)
    table = pa.concat_tables([pq.read_table(p) for p in sorted((everything / "data").glob("train-*.parquet"))]).take(chosen)
    path = out / "data" / "train-00000-of-00001.parquet"
    pq.write_table(table, path, row_group_size=100, compression="zstd")
    manifest = json.loads((everything / "dataset.json").read_text(encoding="utf-8"))
    shards = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    sums = hashlib.sha256(json.dumps(shards).encode()).hexdigest()
    manifest |= {"name": out.name, "counts": {"train": len(chosen)}, "shards": shards, "sha256": sums}
    (out / "dataset.json").write_text(json.dumps(manifest), encoding="utf-8")


def trained(folder: Path, kind: str, seed: int, pairs: int, steps: int, threads: int) -> dict[str, Any]:
    """The scores of one run, which is trained if it is not there."""
    kept = folder / f"{kind}-{seed}.json"
    if not kept.is_file():
        data = EXACT if kind == "exact" else str(folder / kind)
        changes = [
            f"name=filtering-{kind}-{seed}", f"data.train={data}", f"data.test={EXACT}", f"data.limit={pairs}",
            f"train.steps={steps}", f"train.threads={threads}", "train.preview_every=0", "train.save_every=0", f"seed={seed}",
        ]  # fmt: skip
        command = [sys.executable, "-m", "editkit", "train", RECIPE, *(part for c in changes for part in ("--set", c))]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        run = Path(re.findall(r"report: (\S+)/report.html", done.stdout)[-1])
        kept.write_text((run / "evaluation" / "scores.json").read_text(encoding="utf-8"), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))["scores"]


def table(found: dict[str, Sequence[dict[str, Any]]]) -> str:
    """Mean and standard deviation over the seeds."""
    lines = ["| trained on | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for kind, runs in found.items():
        cells = []
        for name in FIGURES:
            values = [run[name] for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.4f} ± {spread:.4f}")
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--proposals", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="to divide the work among processes")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    counts = subsets(given.folder, without_filter(given.folder, given.proposals))
    print(f"{counts['drawn']} pairs drawn, {counts['pairs']} in each set", flush=True)
    runs = {
        kind: [trained(given.folder, kind, seed, counts["pairs"], given.steps, given.threads) for seed in given.seeds]
        for kind in given.only
    }
    print(table(runs))


if __name__ == "__main__":
    main()
