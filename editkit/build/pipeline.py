"""From a builder to a data-set folder: examples made by several processes, written as Parquet with a card.

The bytes depend on the spec alone, not on the number of processes: example `i` of a split is a pure function of
(spec, split, i), rows are written in order, and nothing in a shard knows the time or the machine.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from editkit.build.card import write_card
from editkit.data.examples import EditPair, Example
from editkit.data.spec import DataSpec, data_folder, load_spec, spec_hash
from editkit.errors import UserError
from editkit.progress import progress
from editkit.recipe.schema import Section

FORMAT = 1
ROWS_PER_SHARD = 5_000
CHUNK = 50  # examples a process makes before it answers

BUILDERS = {"avatars": "editkit.lab.avatar_builder:AvatarBuilder"}


class Builder(Protocol):
    """What makes the examples of a data set. Pickled to the workers, so it holds options only."""

    Options: type[Section]

    def counts(self) -> Mapping[str, int]:
        """Split -> number of examples."""
        ...

    def make(self, split: str, index: int) -> Example:
        """One example; equal arguments give equal bytes, in any process."""
        ...

    def credits(self) -> Mapping[str, str]:
        """Licence -> whom to credit."""
        ...


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What the writing of one split learned."""

    count: int
    categories: Counter[str]
    licences: Counter[str]
    shards: dict[str, str]


def builder_of(spec: DataSpec, source: Any) -> Builder:
    """The builder that `[build]` names, with its options validated."""
    from editkit.recipe.load import options

    if spec.build is None:
        raise UserError(f'{spec.name}: found no [build] table; "editkit build" needs one (a [read] spec is read as it is)')
    name = spec.build.builder
    if name not in BUILDERS:
        raise UserError(f'{spec.name}: found builder = "{name}"; expected one of {", ".join(sorted(BUILDERS))}')
    module, _, attribute = BUILDERS[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    return kind(spec.kind, options(spec.build, kind.Options, "build", source))


def build_spec(path: Path, out: Path | None, limit: int = 0, engine: str = "local") -> Path:
    """Builds `path` into `out` (default: `data/<name>`), in a staging folder that takes its name when it is whole.

    Args:
        path: a data spec with a `[build]` table.
        out: the folder to write; an older build of ours is replaced, anything else is refused.
        limit: examples a split at most; 0 = as the spec says.
        engine: "local", processes on this machine.

    Returns:
        The data-set folder.
    """
    if engine != "local":
        raise UserError(f'--engine: found "{engine}"; expected "local"')
    spec, source = load_spec(path)
    builder = builder_of(spec, source)
    out = out or data_folder(spec)
    if out.exists() and not (out / "dataset.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: found something that is not a data set; choose another folder with --out")
    staging = out.with_name(out.name + ".staging")
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "data").mkdir(parents=True)
    counts = {s: min(n, limit) if limit else n for s, n in builder.counts().items()}
    started = time.perf_counter()
    results = {}
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers) as pool, progress(sum(counts.values()), f"building {spec.name}") as bar:
        for split, count in counts.items():
            rows = _rows(pool, builder, split, count, bar.advance)
            results[split] = _write_split(staging, spec.kind, split, count, rows)
    seconds = time.perf_counter() - started
    _write_manifest(staging, spec, path, builder, results)
    write_card(staging)
    if out.exists():
        shutil.rmtree(out)
    staging.rename(out)
    total = sum(counts.values())
    print(f"{out}: {total} examples in {seconds:.1f} s ({total / seconds:.0f}/s on {workers} processes)")
    return out


def _rows(
    pool: ProcessPoolExecutor, builder: Builder, split: str, count: int, advance: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """The rows of a split in order; a bounded number of chunks is in flight, so memory stays constant."""
    starts = iter(range(0, count, CHUNK))
    flight = []
    while True:
        for start in starts:
            flight.append(pool.submit(_make_rows, builder, split, start, min(start + CHUNK, count)))
            if len(flight) > 4 * (os.cpu_count() or 1):
                break
        if not flight:
            return
        rows = flight.pop(0).result()
        advance(len(rows))
        yield from rows


def _make_rows(builder: Builder, split: str, start: int, stop: int) -> list[dict[str, Any]]:
    return [to_row(builder.make(split, i)) for i in range(start, stop)]


def to_row(example: Example) -> dict[str, Any]:
    """An example as a row of the Parquet files."""
    if isinstance(example, EditPair):
        return {
            "key": example.key,
            "source": _image(example.source.read_bytes()),
            "target": _image(example.target.read_bytes()),
            "mask": _image(example.mask.read_bytes()) if example.mask else None,
            "instructions": list(example.instructions),
            "category": example.category,
            "source_caption": example.source_caption,
            "target_caption": example.target_caption,
            "source_facts": json.dumps(dict(example.source_facts)),
            "target_facts": json.dumps(dict(example.target_facts)),
            "licence": example.licence,
        }
    return {
        "key": example.key,
        "image": _image(example.image.read_bytes()),
        "captions": list(example.captions),
        "facts": json.dumps(dict(example.facts)),
        "licence": example.licence,
    }


def _image(data: bytes) -> dict[str, Any]:
    return {"bytes": data, "path": None}


_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TEXTS = pa.list_(pa.string())
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "edit_pairs": {
        "key": pa.string(), "source": _IMAGE, "target": _IMAGE, "mask": _IMAGE, "instructions": _TEXTS,
        "category": pa.string(), "source_caption": pa.string(), "target_caption": pa.string(),
        "source_facts": pa.string(), "target_facts": pa.string(), "licence": pa.string(),
    },
    "captioned_images": {
        "key": pa.string(), "image": _IMAGE, "captions": _TEXTS, "facts": pa.string(), "licence": pa.string(),
    },
}  # fmt: skip


def parquet_schema(kind: str) -> pa.Schema:
    """The columns of a kind, with the features that make `datasets.load_dataset` open pictures as pictures."""
    features: dict[str, Any] = {}
    for name, type_ in COLUMNS[kind].items():
        if type_ is _IMAGE:
            features[name] = {"_type": "Image"}
        elif type_ is _TEXTS:
            features[name] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
        else:
            features[name] = {"dtype": "string", "_type": "Value"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(COLUMNS[kind].items()), metadata=metadata)


def _write_split(folder: Path, kind: str, split: str, count: int, rows: Iterator[dict[str, Any]]) -> BuildResult:
    schema = parquet_schema(kind)
    num_shards = max(1, -(-count // ROWS_PER_SHARD))
    categories: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    shards = {}
    for shard in range(num_shards):
        take = min(ROWS_PER_SHARD, count - shard * ROWS_PER_SHARD)
        block = [next(rows) for _ in range(take)]
        categories.update(row.get("category", "") for row in block)
        licences.update(row["licence"] for row in block)
        path = folder / "data" / f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"
        # Small row groups: a reader that wants one row decodes few others.
        pq.write_table(pa.Table.from_pylist(block, schema), path, row_group_size=100, compression="zstd")
        shards[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return BuildResult(count, categories, licences, shards)


def _write_manifest(folder: Path, spec: DataSpec, path: Path, builder: Builder, results: Mapping[str, BuildResult]) -> None:
    shards = {name: digest for r in results.values() for name, digest in r.shards.items()}
    licences = sum((r.licences for r in results.values()), Counter())
    credits_ = builder.credits()
    manifest = {
        "format": FORMAT,
        "kind": spec.kind,
        "name": spec.name,
        "spec": spec.model_dump(mode="json"),
        "spec_sha256": spec_hash(spec),
        "counts": {s: r.count for s, r in results.items()},
        "categories": {s: dict(sorted(r.categories.items())) for s, r in results.items() if set(r.categories) != {""}},
        "licences": {n: {"count": licences[n], "credit": credits_.get(n, "")} for n in sorted(licences)},
        "shards": shards,
        "sha256": hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest(),
        "provenance": {"builder": type(builder).__name__, "spec_file": path.name},
    }
    (folder / "dataset.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
