"""How fast the cache is here: `python -m tests.bench.cache [--megabytes N] [--rounds N]`. Figures, no assertions.

Reading: GB/s of tensors, from the page cache, checksum verified, in shuffled batches of 64, for entries as the lab's (64 px,
about 8 kB) and as a large model's (1024 px, about 512 kB); beside it the rate without the store, from bytes in memory.
Filling: milliseconds that the store adds to an entry, flushed to disk batch by batch.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from editkit.data.cache import entry_key, fill
from editkit.data.shard import Tensors, pack, unpack
from editkit.data.store import Store
from editkit.train.record import machine_facts

BATCH = 64
SHAPES = {  # of the tensors of an entry: latents of a source; mean and spread of a target; each in two views, or in one
    "8 kB": ((2, 4, 8, 8), (2, 4, 8, 8), (2, 4, 8, 8), (512,)),
    "512 kB": ((2, 4, 128, 128), (4, 128, 128), (4, 128, 128)),
}
LETTERS = "abcd"


def entry_of(kind: str) -> Tensors:
    """An entry of random numbers: float32 in the lab, bfloat16 for the large one."""
    dtype = torch.float32 if kind == "8 kB" else torch.bfloat16
    return {name: torch.randn(shape).to(dtype) for name, shape in zip(LETTERS, SHAPES[kind], strict=False)}


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(kind: str, folder: Path, megabytes: int, rounds: int) -> dict[str, object]:
    """Fills a store and reads it again and again."""
    entry = entry_of(kind)
    nbytes = sum(tensor.nbytes for tensor in entry.values())
    count = max(BATCH, megabytes * 10**6 // nbytes)
    keys = [entry_key(content=[str(n).encode()]) for n in range(count)]
    with Store(folder, limit_bytes=10 * count * nbytes) as store:
        filling = seconds(lambda: fill(store, keys, lambda rows: [entry] * len(rows), BATCH, f"filling, {kind}"))
        random.Random(0).shuffle(keys)
        batches = [keys[start : start + BATCH] for start in range(0, count, BATCH)]

        def read() -> None:
            for batch in batches:
                assert None not in store.get(batch)

        read()  # into the page cache
        reading = [count * nbytes / seconds(read) / 1e9 for _ in range(rounds)]
        disk = store.size_bytes()
    packed = memoryview(pack(keys[0], entry))
    alone = [count * nbytes / seconds(lambda: [unpack(keys[0], packed) for _ in keys]) / 1e9 for _ in range(rounds)]
    return {
        "entries": count,
        "bytes_of_an_entry": nbytes,
        "bytes_on_disk_of_an_entry": round(disk / count),
        "read_GB_per_s": round(statistics.median(reading), 2),
        "read_rounds": [round(x, 2) for x in reading],
        "read_entries_per_s": round(statistics.median(reading) * 1e9 / nbytes),
        "unpacking_alone_GB_per_s": round(statistics.median(alone), 2),
        "fill_ms_per_entry": round(1000 * filling / count, 3),
    }


def main() -> None:
    """Measures and prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="of tensors, of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="of reading everything")
    parser.add_argument(
        "--folder", type=Path, default=None, help="a folder on the disk to be measured; the current one if not given"
    )
    options = parser.parse_args()
    result: dict[str, object] = {"machine": machine_facts(torch.device("cpu")), "batch": BATCH}
    with tempfile.TemporaryDirectory(dir=options.folder or Path.cwd()) as folder:
        for kind in SHAPES:
            result[kind] = measure(kind, Path(folder) / kind.replace(" ", "_"), options.megabytes, options.rounds)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
