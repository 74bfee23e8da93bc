"""The last stage: from parts to the data-set folder, with its manifest and its card."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from editkit.build.rows import Row
from editkit.build.stages import Part
from editkit.data.spec import NOT_OF_THE_SET, DataSpec, spec_hash
from editkit.files import whole_file, write_whole
from editkit.progress import Bar

FORMAT = 1
ROWS_PER_SHARD = 5_000
ROWS_PER_GROUP = 100  # small: a reader that wants one row decodes few others


@dataclass(frozen=True, slots=True)
class Written:
    """What the writing of one split learned."""

    count: int
    categories: Counter[str]
    licences: Counter[str]
    shards: dict[str, str]


def write_split(
    folder: Path, split: str, parts: Sequence[Part], schema: pa.Schema, bar: Bar, rows_per_shard: int = ROWS_PER_SHARD
) -> Written:
    """Writes the kept rows of a split into shards; those that are there already are left as they are.

    A row group is in memory at a time, whatever the size of a shard.
    """
    mine = [p for p in parts if p.split == split]
    count = sum(p.count() for p in mine)
    num_shards = max(1, -(-count // rows_per_shard))
    rows = (row for part in mine for row in part.rows())
    categories: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    shards = {}
    for number in range(num_shards):
        path = folder / "data" / f"{split}-{number:05d}-of-{num_shards:05d}.parquet"
        take = min(rows_per_shard, count - number * rows_per_shard)
        if path.is_file():
            bar.advance(len(list(islice(rows, take))))
        else:
            with whole_file(path) as half:
                _write_shard(half, islice(rows, take), schema, bar)
        facts = pq.read_table(path, columns=[n for n in ("category", "licence") if n in schema.names]).to_pylist()
        categories.update(row.get("category", "") for row in facts)
        licences.update(row["licence"] for row in facts)
        with path.open("rb") as file:
            shards[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return Written(count, categories, licences, shards)


def _write_shard(path: Path, rows: Iterator[Row], schema: pa.Schema, bar: Bar) -> None:
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(rows, ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))
            bar.advance(len(group))


def write_manifest(
    folder: Path,
    spec: DataSpec,
    spec_file: str,
    builder: str,
    credits_: Mapping[str, str],
    results: Mapping[str, Written],
    generation: Mapping[str, Any],
) -> None:
    """Writes `dataset.json`: the last file of a data set but its card, and what readers ask for first.

    Args:
        folder: of the data set.
        spec: what it was built from.
        spec_file: the name of its file.
        builder: the class that built it.
        credits_: licence -> whom to credit.
        results: split -> what was written.
        generation: what is known of the stages, where there were several: teachers, and how many rows each dropped and why.
    """
    shards = {name: digest for r in results.values() for name, digest in r.shards.items()}
    licences = sum((r.licences for r in results.values()), Counter())
    manifest = {
        "format": FORMAT,
        "kind": spec.kind,
        "name": spec.name,
        "spec": spec.model_dump(mode="json", exclude=NOT_OF_THE_SET),
        "spec_sha256": spec_hash(spec),
        "counts": {s: r.count for s, r in results.items()},
        "categories": {s: dict(sorted(r.categories.items())) for s, r in results.items() if set(r.categories) != {""}},
        "licences": {n: {"count": licences[n], "credit": credits_.get(n, "")} for n in sorted(licences)},
        "shards": shards,
        "sha256": hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest(),
        "provenance": {"builder": builder, "builder_version": spec.builder_version, "spec_file": spec_file, **generation},
    }
    write_whole(folder / "dataset.json", json.dumps(manifest, indent=1) + "\n")
