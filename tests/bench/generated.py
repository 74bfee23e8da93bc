"""How good generated pairs are, and what the filter makes of them: its precision and recall on the lab.

    python -m tests.bench.generated [SPEC] [--split test] [--proposals 150] [--guidance 2 6] [--share 0.1 0.9]

A pair is *right* when the attribute reader sees the asked change (the old word in the source, the new one in the target) and
the same word in both pictures for every other attribute that both show. Precision: the share of right pairs among those that a
filter keeps; recall: the share of the right pairs that it keeps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from editkit.build.engine import LocalEngine
from editkit.build.filters import SCORES, FilterOptions, decide, score_pairs
from editkit.build.instruct_pix2pix import InstructPix2PixBuilder
from editkit.build.pipeline import builder_of
from editkit.build.rows import Row
from editkit.build.stages import run_stages
from editkit.data.pictures import Picture
from editkit.data.spec import load_spec
from editkit.lab.judges import LabJudge
from editkit.models.clip.load import load_clip
from editkit.models.locate import locate_model

CLIPS = ("lab:tiny-clip", "lab:judges/clip")
PAPER = {"image": 0.75, "direction": 0.2, "source_caption": 0.2, "target_caption": 0.2}


def right_pairs(judge: LabJudge, rows: Sequence[Row]) -> list[tuple[bool, bool]]:
    """(asked change is there, the rest is as it was) for every row, by the attribute reader."""
    before = judge.read([Picture(data=row["source"]).open() for row in rows])
    after = judge.read([Picture(data=row["target"]).open() for row in rows])
    found = []
    for row, old, new in zip(rows, before, after, strict=True):
        facts = json.loads(row["facts"])
        both = [n for n in facts["target"] if n in facts["source"]]
        asked = [n for n in both if facts["source"][n] != facts["target"][n]]
        followed = all(old[n] == facts["source"][n] and new[n] == facts["target"][n] for n in asked)
        found.append((followed, all(old[n] == new[n] for n in both if n not in asked)))
    return found


def _line(name: str, kept: np.ndarray, right: np.ndarray) -> str:
    both = int((kept & right).sum())
    precision, recall = both / max(1, int(kept.sum())), both / max(1, int(right.sum()))
    return f"| {name} | {int(kept.sum())} | {kept.mean():.1%} | {precision:.1%} | {recall:.1%} |"


def _table(clip: str, rows: Sequence[Row], right: np.ndarray, options: FilterOptions) -> None:
    scores = score_pairs(load_clip(locate_model(clip)), rows)
    columns = {name: np.array([s[name] for s in scores]) for name in SCORES}
    print(f"\nscores by {clip}: right pairs / others, quantiles 5, 25, 50, 75, 95 %")
    for name, values in columns.items():
        quantiles = [np.round(np.nanquantile(values[chosen], [0.05, 0.25, 0.5, 0.75, 0.95]), 3) for chosen in (right, ~right)]
        print(f"  {name}: {quantiles[0]} / {quantiles[1]}")
    print(f"\n| filter by {clip} | kept | share | precision | recall |\n|---|---|---|---|---|")
    print(_line("none", np.ones(len(right), bool), right))
    thresholds = {
        "image": (0.5, 0.6, 0.7, 0.75, 0.8, 0.9),
        "direction": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
        "source_caption": (0.2, 0.6, 0.8, 0.9),
        "target_caption": (0.2, 0.6, 0.8, 0.9),
    }
    for name, levels in thresholds.items():
        for level in levels:
            print(_line(f"{name.replace('_', ' ')} >= {level}", columns[name] >= level, right))
    given = options.model_dump(include=set(SCORES))
    levels_of = {"the paper's thresholds": PAPER} | ({"the spec's thresholds": given} if clip == options.clip else {})
    for title, chosen in levels_of.items():
        for keep in (10**6, options.keep):
            decided = decide(rows, scores, FilterOptions(clip=clip, keep=keep, **chosen))
            name = title if keep == 10**6 else f"{title}, {keep} of a prompt"
            print(_line(name, np.array([not why for why in decided]), right))
    best = [max((i for i, r in enumerate(rows) if r["key"] == key), key=lambda i: scores[i]["direction"]) for key in
            dict.fromkeys(r["key"] for r in rows)]  # fmt: skip
    print(_line("best of a prompt by direction alone", np.isin(np.arange(len(rows)), best), right))


def measure(spec_path: Path, split: str, proposals: int, guidance: list[float], share: list[float], work: Path) -> None:
    """Renders, reads and prints."""
    spec, source = load_spec(spec_path)
    builder = builder_of(spec, source)
    assert isinstance(builder, InstructPix2PixBuilder)
    options = builder._options
    changes = {k: v for k, v in (("guidance", guidance), ("share", share)) if v}
    builder._options = options.model_copy(update={"render": options.render.model_copy(update=changes)})
    engine = LocalEngine()
    started = time.perf_counter()
    made = run_stages(builder.stages(spec)[:3], {split: proposals}, work, engine, spec.name)
    seconds = time.perf_counter() - started
    rows = [row for part in made[-1][1] for row in part.rows()]
    print(f"{len(rows)} pairs, {len(rows) / seconds:.2f}/s on {engine.processes} processes ({builder._options.render})")
    found = np.array(right_pairs(LabJudge("lab:judges"), rows))
    followed, kept = found[:, 0], found[:, 1]
    right = followed & kept
    print(f"asked change {followed.mean():.1%}, rest kept {kept.mean():.1%}, right {right.mean():.1%}")
    for name in ("share", "guidance"):
        values = np.array([row[name] for row in rows])
        edges = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        for low, high in itertools.pairwise(edges):
            chosen = (values >= low) & (values <= high)
            print(f"  {name} {low:.2f}-{high:.2f}: asked change {followed[chosen].mean():.1%}, kept {kept[chosen].mean():.1%}")
    kinds = np.array([row["category"] for row in rows])
    for kind in sorted(set(kinds)):
        chosen = kinds == kind
        print(f"  {kind} ({chosen.sum()}): asked {followed[chosen].mean():.1%}, kept {kept[chosen].mean():.1%}")
    for clip in CLIPS:
        _table(clip, rows, right, options.filter)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", nargs="?", default="data_specs/generated_edits.toml", type=Path)
    parser.add_argument("--split", default="test", help="train, on which thresholds are chosen, or test")
    parser.add_argument("--proposals", default=150, type=int)
    parser.add_argument("--guidance", nargs=2, type=float, default=[])
    parser.add_argument("--share", nargs=2, type=float, default=[])
    parser.add_argument("--work", type=Path, help="keep the pictures here, and take those that are there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(given.spec, given.split, given.proposals, given.guidance, given.share, given.work or Path(folder))


if __name__ == "__main__":
    main()
