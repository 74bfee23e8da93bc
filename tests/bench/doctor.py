"""How much the pair doctor finds, how often it is wrong, and how fast it is: `python -m tests.bench.doctor [--pairs N]`.

Builds avatar edit pairs of the lab (a training split, a test split of a tenth, an evaluation set of a twentieth), plants every
kind of fault in its own share of the training pairs, and prints JSON:

    recall              of the planted faults of a kind, the share that is found and called by its name
    false_alarms        of the pairs in which nothing was planted, the share that is called so
    on_other_faults     pairs with another planted fault that are called so too
    pairs_per_s         examined a second, all processes together, and with what only all pairs together can tell
    cpu_ms_a_pair       of all processes, which other work on the machine does not change

`--index N ...` measures instead how long the search for pictures that are alike takes among N random ones.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from editkit.build.pipeline import build_spec
from editkit.data.doctor.diagnose import diagnose
from editkit.data.doctor.findings import KINDS
from editkit.data.doctor.hashes import candidates
from editkit.data.read import open_dataset
from tests.bench.faults import COPIES, FAULTS, InMemory, plant

SPEC = """format = 1
name = "{name}"
kind = "edit_pairs"
[build]
builder = "avatars"
train = {train}
test = {test}
size = {size}
seed = {seed}
"""


def build(folder: Path, name: str, **numbers: int) -> Path:
    """Builds once; a folder that is there already is taken as it is."""
    out = folder / f"{name}-{numbers['train']}-{numbers['test']}-{numbers['size']}"
    if not out.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        spec = folder / f"{name}.toml"
        spec.write_text(SPEC.format(name=name, **numbers))
        build_spec(spec, out)
    return out


def measure(
    folder: Path, pairs: int, size: int, share: float, seed: int, workers: int | None, bare: bool = False
) -> dict[str, Any]:
    """Plants, diagnoses, compares."""
    ours = build(folder, "planted", train=pairs, test=max(20, pairs // 10), size=size, seed=seed)
    held = build(folder, "evaluation", train=0, test=max(20, pairs // 20), size=size, seed=seed + 1)
    train, test = (list(_all(open_dataset(str(ours), s))) for s in ("train", "test"))
    evaluation = list(_all(open_dataset(str(held), "test")))
    faulty, planted = plant(train, test, evaluation, share, seed)
    if bare:
        faulty = [replace(pair, mask=None, source_caption="", target_caption="") for pair in faulty]
    splits = {"train": InMemory("planted", "train", faulty), "test": InMemory("planted", "test", test)}
    sets = {"evaluation": [InMemory("evaluation", "test", evaluation)]}
    before = _cpu_seconds()
    diagnosis = diagnose(splits, evaluation_sets=sets, workers=workers)
    named: dict[int, set[str]] = {}
    for finding in (*diagnosis.items, *diagnosis.notes):
        if finding.split == "train":
            named.setdefault(finding.index, set()).add(finding.kind)
    sound = [i for i in range(len(faulty)) if i not in planted]
    kinds = {}
    for kind in (*FAULTS, *COPIES):
        mine = [i for i, k in planted.items() if k == kind]
        alarms = sum(kind in named.get(i, ()) for i in sound)
        kinds[kind] = {
            "planted": len(mine),
            "recall": round(sum(kind in named.get(i, ()) for i in mine) / len(mine), 4),
            "false_alarms": round(alarms / len(sound), 5),
            "on_other_faults": dict(Counter(k for i, k in planted.items() if k != kind and kind in named.get(i, ()))),
            "missed": [faulty[i].key for i in mine if kind not in named.get(i, ())][:5],
        }
    assert set(kinds) == set(KINDS) - {"count"}  # which compares with a spec
    facts = diagnosis.facts
    return {
        "pairs": len(faulty),
        "sound": len(sound),
        "size": size,
        "kinds": kinds,
        "direction": facts["direction"],
        "pairs_per_s": round(facts["examples"] / facts["seconds_examining"], 1),
        "pairs_per_s_in_all": round(facts["examples"] / facts["seconds"], 1),
        "cpu_ms_a_pair": round(1000 * (_cpu_seconds() - before) / facts["examples"], 2),
        "workers": workers or os.cpu_count(),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def index_times(counts: list[int]) -> list[dict[str, Any]]:
    """Seconds of the search among random hashes, a hundredth of them nearly equal to another."""
    found = []
    for count in counts:
        rng = np.random.default_rng(0)
        hashes = rng.integers(0, 2**64, count, np.uint64)
        copies = rng.choice(count // 2, count // 100, replace=False)
        flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (3, len(copies)), np.uint64), axis=0)
        hashes[count // 2 + copies] = hashes[copies] ^ flips
        started = time.perf_counter()
        met = {(min(i, j), max(i, j)) for a, b in candidates(hashes) for i, j in zip(a.tolist(), b.tolist(), strict=True)}
        seconds = time.perf_counter() - started
        hits = sum((int(c), int(c) + count // 2) in met for c in copies)
        found.append(
            {"pictures": count, "seconds": round(seconds, 2), "candidates": len(met), "recall": round(hits / len(copies), 5)}
        )
    return found


def _cpu_seconds() -> float:
    """Of this process and of the children that it waited for; it does not depend on what else the machine does."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def _all(dataset: Any) -> Any:
    return (dataset[i] for i in range(len(dataset)))


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000, help="of the training split")
    parser.add_argument("--size", type=int, default=64, help="px")
    parser.add_argument("--share", type=float, default=0.02, help="of the pairs, in which each kind is planted")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--bare", action="store_true", help="take masks and captions away, as most data sets have none")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=None, help="where the pairs are built and found again")
    parser.add_argument("--index", type=int, nargs="+", default=None)
    options = parser.parse_args()
    if options.index:
        print(json.dumps(index_times(options.index), indent=1))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place)
        result = measure(folder, options.pairs, options.size, options.share, options.seed, options.workers, options.bare)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
