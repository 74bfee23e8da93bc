"""Other people's layouts, read through the `[read]` table of a data spec."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from editkit.data.examples import CaptionedImage, Dataset, EditPair, Example, pictures_of
from editkit.data.pictures import Picture, PictureError
from editkit.data.spec import DataSpec, Read
from editkit.errors import UserError

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.json")


def open_foreign(spec: DataSpec, root: Path, split: str) -> Dataset[Any]:
    """Opens one split of the data that `[read]` describes.

    Args:
        spec: a data spec with a `[read]` table.
        root: the folder of the spec file, to which its paths are relative.
        split: "train" or "test".
    """
    read = spec.read
    assert read is not None
    rows: Sequence[Mapping[str, Any]]
    if read.layout == "folder":
        folder = _folder(root, read.path, "path")
        rows, open_cell, orphans = (
            _metadata_rows(folder),
            lambda cell: Picture(path=folder / str(cell)),
            _unnamed(folder, read),
        )
    elif read.layout == "pairs":
        rows, orphans = _pair_rows(root, read)
        open_cell = lambda cell: Picture(path=cell)  # noqa: E731
    else:
        rows, orphans = _hub_rows(_place(root, read.path), read.split), lambda rows: []
        open_cell = _hub_picture
    return RowDataset(spec, rows, open_cell, split, orphans)


class RowDataset:
    """Rows of a table as examples: columns by the names that the spec gives them."""

    def __init__(
        self,
        spec: DataSpec,
        rows: Sequence[Mapping[str, Any]],
        open_cell: Callable[[Any], Picture],
        split: str,
        orphans: Callable[[Sequence[Mapping[str, Any]]], list[str]],
    ) -> None:
        assert spec.read is not None
        self._spec = spec
        self._layout = spec.read.layout
        self._columns = spec.read.columns
        self._rows = rows
        self._open = open_cell
        self._split = split
        self._orphans = orphans
        if split not in ("train", "test"):
            raise UserError(f'{spec.name}: found no split "{split}"; expected "train" or "test"')
        if len(rows) == 0:
            raise UserError(f"{spec.name}: found no examples; check the paths of [read]")
        self._check_columns()
        self._indices = [i for i in range(len(rows)) if (self._is_test(i)) == (split == "test")]

    def _check_columns(self) -> None:
        present = list(self._rows[0])
        needed = ["source", "target", "instruction"] if self._spec.kind == "edit_pairs" else ["image", "caption"]
        optional = [n for n in ("mask", "category", "score", "key") if getattr(self._columns, n)]
        for name in needed + optional:
            column = getattr(self._columns, name)
            if column not in present:
                near = difflib.get_close_matches(column, present, 1)
                hint = f'did you mean "{near[0]}"?' if near else f"the data has {', '.join(present)}"
                raise UserError(f'{self._spec.name}: [read.columns] {name}: found no column "{column}"; {hint}')

    def _key(self, index: int) -> str:
        column = self._columns.key or ("key" if self._layout == "pairs" else "")
        return str(self._rows[index][column]) if column else f"{index:06d}"

    def _is_test(self, index: int) -> bool:
        digest = hashlib.sha256(f"{self._spec.name}/{self._key(index)}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self._spec.split.test * 2**64

    @cached_property
    def info(self) -> Mapping[str, Any]:
        digest = hashlib.sha256()
        for i in self._indices:
            for part in _fingerprint(self._make(i)):
                digest.update(part)
        return {
            "name": self._spec.name,
            "kind": self._spec.kind,
            "sha256": digest.hexdigest(),
            "counts": {self._split: len(self)},
            "licences": {self._spec.licence or "not stated": {"count": len(self), "credit": self._spec.credit}},
            "categories": {},
        }

    def unnamed_files(self) -> list[str]:
        """Picture files in the folders that no row uses."""
        return self._orphans(self._rows)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._make(self._indices[index])

    def _make(self, row_index: int) -> Example:
        row, columns = self._rows[row_index], self._columns
        if self._spec.kind == "captioned_images":
            return CaptionedImage(
                key=self._key(row_index),
                image=self._open(row[columns.image]),
                captions=_texts(row[columns.caption]),
                licence=self._spec.licence,
            )
        return EditPair(
            key=self._key(row_index),
            source=self._open(row[columns.source]),
            target=self._open(row[columns.target]),
            instructions=_texts(row[columns.instruction]),
            category=str(row[columns.category]) if columns.category else "",
            mask=self._open(row[columns.mask]) if columns.mask and row[columns.mask] else None,
            licence=self._spec.licence,
            score=_number(row[columns.score]) if columns.score else None,
        )


def _number(cell: Any) -> float | None:
    """A score; nothing, or what is no number, is none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None


def _fingerprint(example: Example) -> Iterator[bytes]:
    """What a data set's hash covers: key, texts, and every byte of the pictures that can be read."""
    texts = example.captions if isinstance(example, CaptionedImage) else example.instructions
    yield json.dumps([example.key, list(texts)]).encode()
    for role, picture in pictures_of(example):
        try:
            yield role.encode() + hashlib.sha256(picture.read_bytes()).digest()
        except PictureError as error:
            yield f"{role}: {error.why}".encode()


def _texts(cell: Any) -> tuple[str, ...]:
    """One text or a list of them; nothing and white space become no text, which the doctor reports."""
    found = cell if isinstance(cell, (list, tuple)) else [cell]
    return tuple(str(t).strip() for t in found if t is not None and str(t).strip()) or ("",)


def _place(root: Path, path: str) -> Path:
    return Path(path) if Path(path).is_absolute() else root / path


def _folder(root: Path, path: str, key: str) -> Path:
    folder = _place(root, path)
    if not folder.is_dir():
        raise UserError(f"[read] {key}: found no folder {folder}; paths are relative to the spec file")
    return folder


def _metadata_rows(folder: Path) -> list[dict[str, Any]]:
    path = next((folder / n for n in METADATA_NAMES if (folder / n).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: found no {', '.join(METADATA_NAMES[:-1])} or {METADATA_NAMES[-1]}")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    if path.suffix == ".json":
        return _json_rows(path, text)
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            rows += _json_rows(path, f"[{line}]", f":{number}")
    return rows


def _json_rows(path: Path, text: str, line: str = "") -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}{line or f':{error.lineno}'}: not valid JSON ({error.msg})") from error
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise UserError(f"{path}{line}: expected objects, one an example")
    return rows


def _unnamed(folder: Path, read: Read) -> Callable[[Sequence[Mapping[str, Any]]], list[str]]:
    columns = [c for c in (read.columns.source, read.columns.target, read.columns.mask, read.columns.image) if c]

    def find(rows: Sequence[Mapping[str, Any]]) -> list[str]:
        named = {str((folder / str(row[c])).resolve()) for row in rows for c in columns if row.get(c)}
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        return [str(p) for p in files if str(p.resolve()) not in named]

    return find


def _pair_rows(root: Path, read: Read) -> tuple[list[dict[str, Any]], Callable[[Sequence[Mapping[str, Any]]], list[str]]]:
    """Rows of two folders with the same file names; a name with no partner still makes a row, for the doctor to report."""
    sources, targets = (_images(_folder(root, p, k)) for p, k in ((read.source, "source"), (read.target, "target")))
    texts = _folder(root, read.texts, "texts") if read.texts else _place(root, read.target)
    rows = []
    for stem in sorted(sources.keys() | targets.keys()):
        text = texts / f"{stem}.txt"
        lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
        rows.append(
            {
                "key": stem,
                read.columns.source: sources.get(stem, _place(root, read.source) / stem),
                read.columns.target: targets.get(stem, _place(root, read.target) / stem),
                read.columns.instruction: lines,
            }
        )
    stems = {str(r["key"]) for r in rows}
    return rows, lambda _: [str(p) for p in sorted(texts.glob("*.txt")) if p.stem not in stems]


def _images(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_ENDINGS}


class _HubRows:
    """A local Hugging Face data set as rows whose pictures are not decoded."""

    def __init__(self, table: Any) -> None:
        from datasets import Image as ImageFeature

        for name, feature in table.features.items():
            if isinstance(feature, ImageFeature):
                table = table.cast_column(name, ImageFeature(decode=False))
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._table[index]


def _hub_rows(path: Path, split: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetGenerationError

    loaded: Any = None
    if not path.exists():
        raise UserError(f"[read] path: found nothing at {path}; paths are relative to the spec file")
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
    return _HubRows(loaded)


def _hub_picture(cell: Any) -> Picture:
    if isinstance(cell, Mapping):
        return (
            Picture(data=cell["bytes"], label=cell.get("path") or "picture")
            if cell.get("bytes")
            else Picture(path=cell["path"])
        )
    return Picture(path=str(cell)) if cell is not None else Picture(data=b"", label="no picture")
