"""A copy of a data set without what the doctor found wrong with it. The data set itself stays as it is."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image, ImageCms

from editkit.build.card import configs
from editkit.build.rows import parquet_schema, to_row
from editkit.build.write import FORMAT, ROWS_PER_SHARD
from editkit.data.decisions import Decision
from editkit.data.doctor.diagnose import Diagnosis
from editkit.data.doctor.findings import KINDS, Finding
from editkit.data.doctor.orientation import INVERSE, how_stored, turn, undoing
from editkit.data.doctor.texts import faulty_texts
from editkit.data.examples import Dataset, EditPair, Example
from editkit.data.pictures import Picture, png_bytes
from editkit.data.spec import Fix
from editkit.errors import UserError
from editkit.progress import progress

TEXTS = ("empty text", "copied text", "not an instruction")
LOG = "fixes.jsonl"
BY_HAND = "decision"  # the kind of what people decided, in the log


def write_fixed_copy(
    out: Path,
    splits: Mapping[str, Dataset[Any]],
    diagnosis: Diagnosis,
    fix: Fix,
    source: str,
    decided: Mapping[tuple[str, str], Decision] | None = None,
) -> dict[str, Any]:
    """Writes what is sound, and what was repaired, as a data-set folder of ours.

    Args:
        out: a folder that is not there yet.
        splits: the data set.
        diagnosis: what was found in it.
        fix: what is repaired and what is dropped.
        source: what the copy was made of, for its provenance.
        decided: what people decided, by (split, key); it comes before what was found.

    Returns:
        Counts of what was "kept", "repaired" and "dropped", by kind; the folder's LOG names each example.

    Raises:
        UserError: something is at `out`.
    """
    refuse_existing(out)
    kind = next(iter(splits.values())).info["kind"]
    staging = out.with_name(out.name + ".staging")
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "data").mkdir(parents=True)
    schema = parquet_schema(kind, generated=any(len(d) and getattr(d[0], "provenance", "") for d in splits.values()))
    by_place: dict[tuple[str, int], list[Finding]] = {}
    for finding in (*diagnosis.items, *diagnosis.notes):
        if finding.index >= 0:
            by_place.setdefault((finding.split, finding.index), []).append(finding)
    done: dict[str, Counter[str]] = {"repaired": Counter(), "dropped": Counter()}
    counts, categories, licences, shards = Counter(), {}, Counter(), {}
    total = sum(len(d) for d in splits.values())
    with (staging / LOG).open("w", encoding="utf-8") as log, progress(total, "writing the copy") as bar:
        for split, dataset in splits.items():
            written = _Shards(staging / "data", split, schema)
            for index in range(len(dataset)):
                example = dataset[index]
                decision = (decided or {}).get((split, example.key))
                findings = by_place.get((split, index), [])
                fixed, deeds = _fixed(example, findings, fix) if decision is None else _as_decided(example, decision)
                for deed, finding in deeds:
                    done[deed][finding.kind] += 1
                    entry = {"split": split, "key": finding.key, "kind": finding.kind, "done": deed, "why": finding.why}
                    log.write(json.dumps(entry, ensure_ascii=False) + "\n")
                if fixed is not None:
                    written.add(to_row(fixed))
                    counts[split] += 1
                    licences[fixed.licence] += 1
                    categories.setdefault(split, Counter())[getattr(fixed, "category", "")] += 1
                bar.advance()
            shards |= written.close()
    summary = {"kept": dict(counts), **{deed: dict(number) for deed, number in done.items()}}
    info = next(iter(splits.values())).info
    credits_ = {name: said.get("credit", "") for name, said in info.get("licences", {}).items()}
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "name": out.name,
        "counts": {s: counts[s] for s in splits},
        "categories": {s: dict(sorted(c.items())) for s, c in categories.items() if set(c) != {""}},
        "licences": {n or "not stated": {"count": licences[n], "credit": credits_.get(n, "")} for n in sorted(licences)},
        "shards": shards,
        "sha256": hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest(),
        "provenance": {"fixed_from": source, "fixed_from_name": info["name"], **summary},
    }
    (staging / "dataset.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    _write_readme(staging, manifest)
    staging.rename(out)
    return summary


def refuse_existing(out: Path) -> None:
    """Asked before the doctor's round too, which may take long."""
    if out.exists():
        raise UserError(f"--fix: {out} is there already; name a folder that is not, nothing is ever overwritten")


def _write_readme(folder: Path, manifest: Mapping[str, Any]) -> None:
    made = manifest["provenance"]
    lines = [
        f"# {manifest['name']}",
        f"A copy of `{made['fixed_from']}` by `editkit check --fix`; `{LOG}` says what was done.",
    ]
    for label, counts in (("Kept", made["kept"]), ("Repaired", made["repaired"]), ("Dropped", made["dropped"])):
        lines.append(f"{label}: " + (", ".join(f"{n:,} {name}" for name, n in counts.items()) or "nothing") + ".")
    for name, said in manifest["licences"].items():
        credit = f" ({said['credit']})" if said["credit"] else ""
        lines.append(f"Licence of {said['count']:,} examples: {name}{credit}.")
    data = DatasetCardData(pretty_name=manifest["name"], license="other", configs=configs(manifest["counts"]))
    DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n").save(folder / "README.md")


class _Shards:
    """The Parquet files of one split, written as rows come; they take their names when their number is known."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self._folder, self._split, self._schema = folder, split, schema
        self._rows: list[dict[str, Any]] = []
        self._paths: list[Path] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_SHARD:
            self._write()

    def _write(self) -> None:
        path = self._folder / f"{self._split}-{len(self._paths):05d}.part"
        pq.write_table(pa.Table.from_pylist(self._rows, self._schema), path, row_group_size=100, compression="zstd")
        self._paths.append(path)
        self._rows = []

    def close(self) -> dict[str, str]:
        """File name -> hash."""
        if self._rows or not self._paths:
            self._write()
        named = {}
        for number, path in enumerate(self._paths):
            final = path.with_name(f"{self._split}-{number:05d}-of-{len(self._paths):05d}.parquet")
            path.rename(final)
            named[final.name] = hashlib.sha256(final.read_bytes()).hexdigest()
        return named


def _fixed(example: Example, findings: list[Finding], fix: Fix) -> tuple[Example | None, list[tuple[str, Finding]]]:
    """The example as the copy has it, None where it is dropped; and what was done about which finding."""
    deeds = []
    for finding in findings:
        repaired = _repaired(example, finding) if finding.kind in fix.repair else None
        if repaired is not None:
            example = repaired
            deeds.append(("repaired", finding))
        elif finding.kind in fix.drop and (finding.severity == "error" or KINDS[finding.kind].severity != "error"):
            # A milder finding of a grave kind, such as an EXIF orientation that is right, is no reason to drop.
            return None, [("dropped", finding)]
    return example, deeds


def _as_decided(example: Example, decision: Decision) -> tuple[Example | None, list[tuple[str, Finding]]]:
    if decision.verdict == "rejected":
        return None, [("dropped", Finding(BY_HAND, example.key, "rejected", severity="note"))]
    if decision.instruction and isinstance(example, EditPair):
        why = f"the instruction is now: {decision.instruction}"
        return replace(example, instructions=(decision.instruction,)), [
            ("repaired", Finding(BY_HAND, example.key, why, severity="note"))
        ]
    return example, []


def _repaired(pair: Example, finding: Finding) -> Example | None:
    """The pair without what was found; None where it cannot be repaired."""
    if not isinstance(pair, EditPair):
        return None
    if finding.kind in TEXTS:
        captions = [c for c in (pair.source_caption, pair.target_caption) if c]
        bad = faulty_texts(pair.instructions, captions, pair.key)
        left = tuple(t for t in pair.instructions if t not in bad)
        return replace(pair, instructions=left) if left else None
    if finding.kind == "swapped":
        return replace(pair, source=pair.target, target=pair.source)  # its captions say what each should show
    if finding.kind == "orientation":
        return _turned(pair, str(finding.figures["turn"]))
    if finding.kind == "size mismatch":
        size = pair.source.size()
        scaled = pair.target.open().resize(size, Image.Resampling.LANCZOS)
        return replace(pair, target=_encoded(scaled, pair.target))
    if finding.kind == "colour profile":
        return replace(pair, source=_in_srgb(pair.source), target=_in_srgb(pair.target))
    return None


def _turned(pair: EditPair, operation: str) -> EditPair:
    """Both pictures upright, with no orientation beside their pixels; the one that lies turned as the other is."""
    tags = how_stored(pair.source).orientation, how_stored(pair.target).orientation
    source, target = pair.source.open(), pair.target.open()
    if operation and tags[1] == 1 and tags[0] != 1 and INVERSE.get(operation, operation) == undoing(tags[0]):
        source = turn(source, undoing(tags[0]))  # the source's own EXIF was wrong
    elif operation:
        target = turn(target, operation)
    return replace(pair, source=_encoded(source, pair.source), target=_encoded(target, pair.target))


def _in_srgb(picture: Picture) -> Picture:
    stored = how_stored(picture)
    if not stored.profile:
        return picture
    image = Image.open(io.BytesIO(picture.read_bytes()))
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(stored.profile))
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        return _encoded(picture.open(), picture)  # a profile that nothing can read says nothing
    assert converted is not None
    operation = undoing(stored.orientation)
    return _encoded(turn(converted, INVERSE.get(operation, operation)) if operation else converted, picture)


def _encoded(image: Image.Image, picture: Picture) -> Picture:
    return Picture(data=png_bytes(image), label=picture.name)
