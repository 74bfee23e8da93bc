"""Hugging Face data sets: parquet files on this disk or on the Hub, `save_to_disk`, and image folders."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from editkit.data.folders import place
from editkit.data.row_groups import ParquetRows, file_system, is_local
from editkit.data.spec import Read
from editkit.errors import UserError

Row = Mapping[str, Any]
_SPLITS = re.compile(r"(?:^|[/_.\-])(?:train|test|dev|val|valid|validation|eval)(?:[/_.\-]|$)", re.IGNORECASE)


def where_is(root: Path, read: Read) -> str:
    """Where a Hugging Face data set is read from: the folder, where it is there, or else a URL of the Hub."""
    if "://" in read.path:
        return read.path
    if read.path and (place(root, read.path).exists() or not read.repo):
        return str(place(root, read.path))
    return f"hf://datasets/{read.repo}@{quote(read.revision, safe='')}"


def hub_rows(root: Path, read: Read, split: str) -> Sequence[Row]:
    """The rows of one split, whose pictures are not decoded.

    Raises:
        UserError: it is not there, cannot be reached, or has no such split.
    """
    where = where_is(root, read)
    if "://" not in where:
        path = Path(where)
        if not path.exists():
            raise UserError(f"[read] path: found nothing at {path}; paths are relative to the spec file")
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")) or not _has_parquet(path):
            return _arrow_rows(path, split)
    fs, base = file_system(where)
    files = _split_files(_list(fs, base, where, root, read), base, read.files, split)
    if not files:
        wanted = f" {read.files}" if read.files else ""
        raise UserError(f'{where}: found no parquet files{wanted} of the split "{split}"')
    return ParquetRows(fs, files, where)


def _has_parquet(path: Path) -> bool:
    return next(path.rglob("*.parquet"), None) is not None


def _list(fs: Any, base: str, where: str, root: Path, read: Read) -> list[str]:
    try:
        return sorted(fs.find(base))
    except Exception as error:  # the Hub's errors come from its library, its transport and the network
        if is_local(fs):
            raise
        raise UserError(unreachable(where, root, read, error)) from error


def unreachable(where: str, root: Path, read: Read, error: Exception) -> str:
    """One line for whatever kept us from a remote data set."""
    said = (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")
    if type(error).__name__ == "OfflineModeIsEnabled":
        said = "HF_HUB_OFFLINE is set"
    to = os.path.normpath(place(root, read.path)) if read.path else read.repo.rpartition("/")[2]
    elsewhere = f", or a copy of it here: {download(read, to)}" if read.repo else ""
    return f"{where}: cannot be reached ({said}); expected a network{elsewhere}"


def download(read: Read, to: str) -> str:
    """The command that brings a repository here."""
    revision = "" if read.revision == "main" else f" --revision {read.revision}"
    return f"hf download {read.repo} --repo-type dataset{revision} --local-dir {to}"


def _split_files(files: Sequence[str], base: str, pattern: str, split: str) -> list[str]:
    """The parquet files of a split, by their names as the Hub's own library knows them: "train-00000-of-00262.parquet"."""
    inside = {f: f[len(base) :].lstrip("/") for f in files if f.endswith(".parquet")}
    if pattern:
        return [f for f, name in inside.items() if fnmatch.fnmatch(name, pattern.replace("SPLIT", split))]
    word = re.compile(rf"(?:^|[/_.\-]){re.escape(split)}(?:[/_.\-]|$)", re.IGNORECASE)
    found = [f for f, name in inside.items() if word.search(name.removesuffix(".parquet"))]
    named = any(_SPLITS.search(name.removesuffix(".parquet")) for name in inside.values())
    return found or (list(inside) if split == "train" and not named else [])


class _ArrowRows(Sequence[Row]):
    """A table of the `datasets` library, as rows whose pictures are not decoded."""

    def __init__(self, table: Any) -> None:
        from datasets import Image as ImageFeature

        for name, feature in table.features.items():
            if isinstance(feature, ImageFeature):
                table = table.cast_column(name, ImageFeature(decode=False))
        self._table = table

    @property
    def columns(self) -> list[str]:
        return list(self._table.column_names)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        return self._table[index]


def _arrow_rows(path: Path, split: str) -> _ArrowRows:
    import datasets
    from datasets.exceptions import DatasetGenerationError

    loaded: Any = None
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded = datasets.load_from_disk(str(path))
            if isinstance(loaded, datasets.DatasetDict):
                loaded = loaded[split]
        else:
            loaded = datasets.load_dataset(str(path), split=split)
    except KeyError as error:
        raise UserError(f'{path}: found no split "{split}"; it has {", ".join(map(str, loaded))}') from error
    except (ValueError, FileNotFoundError, DatasetGenerationError) as error:
        raise UserError(f"{path}: cannot be opened as a Hugging Face data set: {str(error).splitlines()[0]}") from error
    return _ArrowRows(loaded)
