"""Opening data sets: our own folders, and through a spec whatever others have."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from editkit.data.examples import CaptionedImage, Dataset, EditPair, Example
from editkit.data.formats import open_foreign
from editkit.data.pictures import Picture
from editkit.data.spec import DataSpec, data_folder, load_spec, spec_hash
from editkit.errors import UserError

FORMAT = 1

# What makes a data set that is not there yet; a dotted path, since this room does not know the builders.
BUILD = "editkit.build"


def open_dataset(where: str, split: str = "train", *, limit: int = 0) -> Dataset[Any]:
    """Opens one split of a data set.

    Args:
        where: a data spec (*.toml) or a data-set folder of ours.
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
    if not (path / "dataset.json").is_file():
        raise UserError(f"{where}: found no data set; expected a data spec (*.toml) or a folder with dataset.json")
    return _limited(ParquetDataset(path, split), limit)


def _built_folder(path: Path, spec: DataSpec) -> Path:
    folder = data_folder(spec)
    if not (folder / "dataset.json").is_file():
        print(f"{folder}: not built yet, building it")
        return importlib.import_module(BUILD).build(str(path))
    if json.loads((folder / "dataset.json").read_text(encoding="utf-8")).get("spec_sha256") != spec_hash(spec):
        raise UserError(f'{folder}: was built from another version of {path}; run "editkit build {path}" to build it anew')
    return folder


class ParquetDataset:
    """A split of a data-set folder of ours, its shards memory-mapped and decoded a row group at a time."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder = Path(folder)
        self._split = split
        self._manifest = json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))
        if self._manifest["format"] > FORMAT:
            raise UserError(
                f"{folder}: found format {self._manifest['format']}; this version knows up to {FORMAT}; update editkit"
            )
        if split not in self._manifest["counts"]:
            raise UserError(f'{folder}: found no split "{split}"; it has {", ".join(self._manifest["counts"])}')
        self._make = _edit_pair if self._manifest["kind"] == "edit_pairs" else _captioned_image

    @property
    def info(self) -> Mapping[str, Any]:
        return self._manifest

    @property
    def shards(self) -> list[Path]:
        """The files of this split, in order."""
        return sorted((self.folder / "data").glob(f"{self._split}-*.parquet"))

    def verify(self) -> None:
        """Compares the shards with the hashes that were written with them.

        Raises:
            UserError: a shard is missing or was changed.
        """
        for name, digest in self._manifest["shards"].items():
            path = self.folder / "data" / name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise UserError(f"{path}: is missing or not what was built; build the data set anew")

    def __len__(self) -> int:
        return self._manifest["counts"][self._split]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._make(self._table.slice(index, 1).to_pylist()[0])

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens the files itself."""
        return {k: v for k, v in self.__dict__.items() if k != "_table"}

    @cached_property
    def _table(self) -> pa.Table:
        try:
            tables = [pq.read_table(shard, memory_map=True) for shard in self.shards]
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{self.folder}: a shard cannot be read ({error}); build the data set anew") from error
        if not tables:
            raise UserError(f'{self.folder}: found no shards of "{self._split}"; build the data set anew')
        return pa.concat_tables(tables).combine_chunks()


class Limited:
    """The first examples of a data set."""

    def __init__(self, dataset: Dataset[Any], count: int) -> None:
        self._dataset = dataset
        self._count = min(count, len(dataset))

    @property
    def info(self) -> Mapping[str, Any]:
        return self._dataset.info

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._dataset[index]


def _limited(dataset: Dataset[Any], limit: int) -> Dataset[Any]:
    return Limited(dataset, limit) if limit else dataset


def _picture(cell: Mapping[str, Any], name: str) -> Picture:
    return Picture(data=cell["bytes"] or b"", label=name)


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
    )


def _captioned_image(row: Mapping[str, Any]) -> CaptionedImage:
    return CaptionedImage(
        key=row["key"],
        image=_picture(row["image"], row["key"]),
        captions=tuple(row["captions"]),
        facts=json.loads(row["facts"]),
        licence=row["licence"],
    )
