"""The card of a data set: what is in it, from where, under which licence, and a picture of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image

from editkit.data.pictures import Picture
from editkit.data.read import plan_trace
from editkit.data.traces import PlanTrace, inspection_words
from editkit.errors import UserError
from editkit.evaluate.filmstrips import Frame, filmstrips
from editkit.evaluate.pictures import contact_sheet

SHEET_EXAMPLES = 24
SHEET_TRACES = 16
TASKS = {"edit_pairs": "image-to-image", "captioned_images": "text-to-image", "plan_traces": "text-to-image"}
OTHER_FORMS = """\
With `traces = editkit.data.read.open_dataset("FOLDER", "train")` and `editkit.data.trace_files`:
`write_conversations("traces.parquet", traces)` writes what trainers of BAGEL read, `to_edit_pairs(trace)` gives
(previous picture, instruction) -> picture for any instruction editor, and `write_traces(folder, traces)` writes a line of JSON
a trace with its pictures beside it."""
BY = {"plan_traces": "subset, and route or fault"}  # what the categories of a kind are; else a kind of edit


def write_card(folder: Path) -> None:
    """Writes `README.md` and `contact_sheet.png` from what lies in the data-set folder."""
    manifest = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    _write_sheet(folder, manifest["kind"])
    data = DatasetCardData(
        pretty_name=manifest["name"],
        license="other",
        task_categories=[TASKS[manifest["kind"]]],
        size_categories=_size_category(sum(manifest["counts"].values())),
        configs=configs(manifest["counts"]),
    )
    lines = [
        f"# {manifest['name']}",
        f"{manifest['kind'].replace('_', ' ')}, built by editkit from `{manifest['provenance']['spec_file']}`.",
        "![a sample](contact_sheet.png)",
        "## Counts",
        _table(("split", "examples"), manifest["counts"].items()),
    ]
    for split, counts in manifest["categories"].items():
        lines += [f"By {BY.get(manifest['kind'], 'kind of edit')}, {split}:", _table(("kind", "examples"), _with_sums(counts))]
    stages = manifest["provenance"].get("stages", {})
    if stages:
        teachers = [(what, f"`{json.dumps(how)}`") for what, how in manifest["provenance"]["teachers"].items()]
        rates = [(name, reason, count) for name, counts in stages.items() for reason, count in counts.items()]
        lines += ["## How it was generated", _table(("stage", "by"), teachers), _table(("stage", "rows", "count"), rates)]
        lines += [
            "The column `provenance` says of every example how it came about: by whom, with which seed and which parameters."
        ]
    licences = [(n, entry["count"], entry["credit"]) for n, entry in manifest["licences"].items()]
    lines += ["## Licences", "Every example states its own.", _table(("licence", "examples", "credit"), licences)]
    if manifest["kind"] == "plan_traces":
        lines += ["## For other trainers", OTHER_FORMS]
    lines += [
        "## Rebuild",
        "With the spec below as a file, the same bytes:",
        f"```\neditkit build {manifest['provenance']['spec_file']}\n```",
    ]
    lines += ["## Spec", f"```json\n{json.dumps(manifest['spec'], indent=1)}\n```", f"sha256 `{manifest['sha256']}`"]
    DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n").save(folder / "README.md")


def configs(splits: Iterable[str]) -> list[dict[str, Any]]:
    """Which files are the data, for `datasets.load_dataset`, which would take dataset.json for some too."""
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    return [{"config_name": "default", "data_files": files}]


def _write_sheet(folder: Path, kind: str) -> None:
    shards = [pq.ParquetFile(path) for path in sorted((folder / "data").glob("*.parquet"), key=lambda p: p.name[:5] != "train")]
    shard = next((s for s in shards if s.metadata.num_rows), None)
    if shard is None:
        raise UserError(f"{folder}: found no example to write; ask for some in the spec")
    if kind == "plan_traces":
        _strips_of(shard).save(folder / "contact_sheet.png")
        return
    rows = shard.read_row_group(0).slice(0, SHEET_EXAMPLES).to_pylist()
    images, captions = [], []
    for row in rows:
        names = ("source", "target") if kind == "edit_pairs" else ("image",)
        images += [Picture(data=row[n]["bytes"]).open() for n in names]
        captions += [row["instructions"][0], f"({row['category']})"] if kind == "edit_pairs" else [row["captions"][0]]
    contact_sheet(images, captions, columns=8, scale=2).save(folder / "contact_sheet.png")


def _with_sums(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """The counts, with a line before those that share what stands before a colon: "image-side, misaligned"."""
    sums: Counter[str] = Counter()
    for name, count in counts.items():
        sums[name.partition(":")[0]] += count
    lines: dict[str, int] = {}
    for name, count in counts.items():
        whole = name.partition(":")[0]
        lines.setdefault(whole, sums[whole])
        lines[name] = count
    return list(lines.items())


def _strips_of(shard: pq.ParquetFile) -> Image.Image:
    """Traces of as many categories as there are among the first, each as a strip."""
    rows = shard.read_row_group(0).to_pylist()
    first = {row["category"]: row for row in reversed(rows)}
    chosen = list({row["key"]: row for row in [*first.values(), *rows]}.values())[:SHEET_TRACES]
    traces = [plan_trace(row) for row in sorted(chosen, key=lambda row: (row["category"], row["key"]))]
    return filmstrips([(f"{t.category}: {t.prompt}" if t.category else t.prompt, _frames(t)) for t in traces])


def _frames(trace: PlanTrace) -> list[Frame]:
    found = []
    for n, step in enumerate(trace.steps, 1):
        seen = step.inspection
        said = "" if seen is None else inspection_words(seen)
        learned = [name for name, needed in asdict(step.need_loss).items() if needed and (name != "inspection" or seen)]
        picture = step.sketch.open() if step.sketch is not None else None
        about = f"learned: {', '.join(learned)}" if learned else "context"
        found.append(Frame(picture, f"{n}. {step.ins}", step.des, said, seen is None or seen.ok, about))
    return found


def _table(head: tuple[str, ...], rows: Iterable[Sequence[object]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(cell).replace("|", "/") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _size_category(n: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if n < limit:
            return name
    return "n>1M"
