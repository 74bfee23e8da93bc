"""Opening data sets: our own folders, and through a spec whatever others have."""

from __future__ import annotations

import bisect
import hashlib
import importlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from editkit.data.combine import Limited
from editkit.data.examples import SCORE, CaptionedImage, Dataset, EditPair, Example, all_texts
from editkit.data.formats import open_foreign
from editkit.data.pictures import Picture
from editkit.data.row_groups import (
    RESIDENT_BYTES,
    Group,
    Resident,
    Rows,
    file_system,
    groups_of,
    is_local,
    read_columns,
    read_metadata,
    read_row_group,
)
from editkit.data.spec import DataSpec, data_folder, load_spec, spec_hash
from editkit.data.traces import Inspection, NeedLoss, PlanStep, PlanTrace
from editkit.errors import UserError

T = TypeVar("T")

FORMAT = 1

# What makes a data set that is not there yet; a dotted path, since this room does not know the builders.
BUILD = "editkit.build"


def open_dataset(where: str, split: str = "train", *, limit: int = 0) -> Dataset[Any]:
    """Opens one split of a data set.

    Args:
        where: a data spec (*.toml), a data-set folder of ours, or its URL (anything that fsspec knows: "s3://...", "hf://...").
        split: "train" or "test".
        limit: take only the first N examples; 0 = all.

    Raises:
        UserError: it is not there, or is not what it should be.
    """
    path = Path(where)
    if path.suffix == ".toml":
        spec, _ = load_spec(path)
        if spec.read is not None:
            return _limited(open_foreign(spec, path.parent, split), limit)
        return _limited(ParquetDataset(_built_folder(path, spec), split), limit)
    if "://" in where:
        return _limited(ParquetDataset(where, split), limit)
    if not (path / "dataset.json").is_file():
        raise UserError(f"{where}: found no data set; expected a data spec (*.toml) or a folder with dataset.json")
    return _limited(ParquetDataset(path, split), limit)


def needs_building(where: str) -> bool:
    """Whether opening a data set builds it first: it is a data spec with a `[build]` table, and was not built yet."""
    if Path(where).suffix != ".toml":
        return False
    spec, _ = load_spec(Path(where))
    return spec.read is None and not _is_built(spec)


def _is_built(spec: DataSpec) -> bool:
    return (data_folder(spec) / "dataset.json").is_file()


def _built_folder(path: Path, spec: DataSpec) -> Path:
    folder = data_folder(spec)
    if not _is_built(spec):
        print(f"{folder}: not built yet, building it")
        return importlib.import_module(BUILD).build(str(path))
    manifest = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    anew = f'"editkit build {path}" builds it anew'
    if manifest.get("spec_sha256") != spec_hash(spec):
        raise UserError(f"{folder}: was built from another version of {path}; {anew}")
    made = manifest.get("provenance", {}).get("builder_version", 1)
    if made != spec.builder_version:
        print(f"{folder}: was built by version {made} of its builder, version {spec.builder_version} makes another; {anew}")
    return folder


class ParquetDataset:
    """A split of a data-set folder of ours, on the local disk or behind any URL that fsspec knows.

    Rows are read a row group at a time and kept up to RESIDENT_BYTES, so that a data set may be larger than memory.
    """

    def __init__(self, where: str | Path, split: str) -> None:
        self._where = str(where)
        self._split = split
        self._fs, self._root = file_system(self._where)
        self._manifest = self._read_manifest()
        if split not in self._manifest["counts"]:
            raise UserError(f'{where}: found no split "{split}"; it has {", ".join(self._manifest["counts"])}')
        kind = self._manifest["kind"]
        if kind not in MAKERS:
            raise UserError(f"{where}: found {kind}; this version knows {', '.join(MAKERS)}; update editkit")
        self._make = MAKERS[kind]
        self._resident = Resident(RESIDENT_BYTES)

    def _read_manifest(self) -> Mapping[str, Any]:
        text = self._reading("dataset.json", lambda: self._fs.cat_file(f"{self._root}/dataset.json"))
        try:
            manifest = json.loads(text)
            found = manifest["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._where}: dataset.json cannot be read; build the data set anew") from error
        if found > FORMAT:
            raise UserError(f"{self._where}: found format {found}; this version knows up to {FORMAT}; update editkit")
        return manifest

    @property
    def info(self) -> Mapping[str, Any]:
        return self._manifest

    @property
    def shards(self) -> list[str]:
        """The files of this split, in order; as dataset.json has them, because a plain web server lists no folders."""
        names = sorted(n for n in self._manifest["shards"] if n.rsplit("-", 3)[0] == self._split)
        return [f"{self._root}/data/{name}" for name in names]

    @property
    def group_sizes(self) -> list[int]:
        """Rows of each row group, in order: what is read at once."""
        return [group.rows for group in self._groups]

    @property
    def window(self) -> int:
        """How many row groups can be shuffled together so that they stay in memory; 0 = all."""
        nbytes = [group.nbytes for group in self._groups]
        return 0 if sum(nbytes) <= RESIDENT_BYTES else max(1, RESIDENT_BYTES // (2 * max(nbytes)))

    def verify(self) -> None:
        """Compares the shards with the hashes that were written with them.

        What lies behind a URL would have to be read whole for that: there it is only asked whether every shard of the split
        is there and ends as Parquet files do.

        Raises:
            UserError: a shard is missing or was changed.
        """
        if not is_local(self._fs):
            _ = self._groups
            return
        path = next(changed_shards(Path(self._root), self._manifest), None)
        if path is not None:
            raise UserError(f"{path}: is missing or not what was built; build the data set anew")

    def __len__(self) -> int:
        return self._manifest["counts"][self._split]

    def __getitem__(self, index: int) -> Example | PlanTrace:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self._starts, index) - 1
        rows = self._resident.get(number, lambda: self._read_group(number))
        return self._make(rows[index - self._starts[number]])

    def columns(self, *names: str) -> dict[str, list[Any]]:
        """Whole columns, of those among `names` that there are: for looking over a data set without its pictures."""
        found: dict[str, list[Any]] = {}
        for shard in self.shards:
            table = self._reading(f"data/{shard.rpartition('/')[2]}", lambda shard=shard: read_columns(self._fs, shard, names))
            for name in table.column_names:
                found.setdefault(name, []).extend(table.column(name).to_pylist())
        return found

    def texts(self) -> Iterator[tuple[str, ...]]:
        """The texts of every example, in order; no pictures are read."""
        kind = self._manifest["kind"]
        if kind == "plan_traces":  # texts and pictures lie in one column
            yield from (all_texts(self[i]) for i in range(len(self)))
            return
        column = "instructions" if kind == "edit_pairs" else "captions"
        for group in self._groups:
            rows = self._reading(group.shard, lambda group=group: read_row_group(self._fs, group, [column]))
            yield from map(tuple, rows.columns[column])

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens the files itself."""
        dropped = ("_groups", "_starts", "_resident")
        return {k: v for k, v in self.__dict__.items() if k not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_resident": Resident(RESIDENT_BYTES)}

    @cached_property
    def _groups(self) -> list[Group]:
        groups: list[Group] = []
        for shard in self.shards:
            name = shard.rpartition("/")[2]
            metadata = self._reading(f"data/{name}", lambda shard=shard: read_metadata(self._fs, shard))
            groups += groups_of(shard, metadata)
        found = sum(group.rows for group in groups)
        if found != len(self):
            raise UserError(
                f'{self._where}: found {found:,} examples of "{self._split}", dataset.json says {len(self):,}; '
                "build the data set anew"
            )
        return groups

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *itertools.accumulate(group.rows for group in self._groups)][:-1]

    def _read_group(self, number: int) -> Rows:
        group = self._groups[number]
        return self._reading(f"data/{group.shard.rpartition('/')[2]}", lambda: read_row_group(self._fs, group))

    def _reading(self, name: str, action: Callable[[], T]) -> T:
        """Runs `action`, which reads the file `name`; whatever goes wrong becomes a line for the user."""
        try:
            return action()
        except FileNotFoundError as error:
            wanted = " (a data-set folder that editkit build wrote)" if name == "dataset.json" else ""
            raise UserError(f"{self._where}: found no {name}{wanted}; build or upload the data set anew") from error
        except Exception as error:  # every remote file system has errors of its own
            said = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{self._where}: {name} cannot be read ({said}); build or upload the data set anew") from error


def changed_shards(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """Files of a data-set folder that are missing, or have another hash than the one that was written with them."""
    for name, digest in manifest["shards"].items():
        path = folder / "data" / name
        if not path.is_file() or _sha256(path) != digest:
            yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _limited(dataset: Dataset[Any], limit: int) -> Dataset[Any]:
    return Limited(dataset, limit) if limit else dataset


def _picture(data: bytes | None, name: str) -> Picture:
    return Picture(data=data or b"", label=name)


def _edit_pair(row: Mapping[str, Any]) -> EditPair:
    key = row["key"]
    return EditPair(
        key=key,
        source=_picture(row["source"], f"{key} (source)"),
        target=_picture(row["target"], f"{key} (target)"),
        instructions=tuple(row["instructions"]),
        category=row["category"],
        mask=_picture(row["mask"], f"{key} (mask)") if row["mask"] else None,
        source_caption=row["source_caption"],
        target_caption=row["target_caption"],
        source_facts=json.loads(row["source_facts"]),
        target_facts=json.loads(row["target_facts"]),
        licence=row["licence"],
        scores=_scores(row),
        provenance=row.get("provenance") or "",
    )


def _scores(row: Mapping[str, Any]) -> dict[str, float]:
    """Those that a generated pair was filtered by; and SCORE, where the set has such a column."""
    found = json.loads(row["provenance"]).get("scores", {}) if row.get("provenance") else {}
    return found if row.get(SCORE) is None else {**found, SCORE: row[SCORE]}


def _captioned_image(row: Mapping[str, Any]) -> CaptionedImage:
    return CaptionedImage(
        key=row["key"],
        image=_picture(row["image"], row["key"]),
        captions=tuple(row["captions"]),
        facts=json.loads(row["facts"]),
        licence=row["licence"],
    )


def plan_trace(row: Mapping[str, Any]) -> PlanTrace:
    """A trace from a row of the Parquet files."""
    steps = tuple(_plan_step(step, f"{row['key']}, step {n}") for n, step in enumerate(row["steps"], 1))
    return PlanTrace(
        key=row["key"],
        prompt=row["prompt"],
        steps=steps,
        final=steps[-1].sketch if row["finished"] else None,
        scene=json.loads(row["scene"]),
        licence=row["licence"],
        category=row["category"],
        provenance=row.get("provenance") or "",
    )


def _plan_step(step: Mapping[str, Any], name: str) -> PlanStep:
    seen = step["inspection"]
    if seen is not None:
        seen = Inspection(seen["ok"], seen["on"], tuple(seen["issues"]), tuple(seen["deferred"]), seen["refine"])
    sketch = _picture(step["image"]["bytes"], name) if step["image"] is not None else None
    return PlanStep(step["ins"], step["des"], sketch, seen, NeedLoss(**step["need_loss"]))


MAKERS: Mapping[str, Callable[[Mapping[str, Any]], Example | PlanTrace]] = {
    "edit_pairs": _edit_pair,
    "captioned_images": _captioned_image,
    "plan_traces": plan_trace,
}
