"""Folders of pictures without a table: pairs by file name, and pictures with a text beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from editkit.data.archives import IMAGE_ENDINGS
from editkit.data.spec import Read
from editkit.errors import UserError

Row = Mapping[str, Any]
Orphans = Callable[[Sequence[Row]], list[str]]

_NUMBERED = re.compile(r"(.+)_(\d+)$")


def place(root: Path, path: str) -> Path:
    """A path of a spec: absolute, or relative to the spec's folder."""
    return Path(path) if Path(path).is_absolute() else root / path


def need_folder(root: Path, path: str, key: str) -> Path:
    """The same, which must be a folder."""
    folder = place(root, path)
    if not folder.is_dir():
        raise UserError(f"[read] {key}: found no folder {folder}; paths are relative to the spec file")
    return folder


def pair_rows(root: Path, read: Read) -> tuple[list[Row], Orphans]:
    """Rows of folders with the same file names; a name with no partner still makes a row, for the doctor to report."""
    columns = read.columns
    sources, targets = (_images(need_folder(root, p, k)) for p, k in ((read.source, "source"), (read.target, "target")))
    further = [_images(need_folder(root, path, "references")) for path in read.references]
    texts = need_folder(root, read.texts, "texts") if read.texts else place(root, read.target)
    numbered = _numbered(sources) if read.numbered else {}
    names = {*targets, *(numbered if read.numbered else sources)}
    rows: list[Row] = []
    for stem in sorted(names):
        several = numbered.get(stem, [])
        rows.append(
            {
                "key": stem,
                columns.source: several[0] if several else sources.get(stem, place(root, read.source) / stem),
                columns.target: targets.get(stem, place(root, read.target) / stem),
                "references": [*several[1:], *(images[stem] for images in further if stem in images)],
                "text": _text_of(stem, texts, read),
            }
        )
    return rows, _texts_without(texts, names)


def image_rows(root: Path, read: Read) -> tuple[list[Row], Orphans]:
    """Rows of a folder, with all below it, of pictures; the text is that of the file beside, or the picture's name."""
    folder = need_folder(root, read.path, "path")
    texts = need_folder(root, read.texts, "texts") if read.texts else None
    rows: list[Row] = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS):
        key = path.relative_to(folder).with_suffix("").as_posix()
        rows.append(
            {"key": key, "image": path, "text": _text_of(path.stem, texts or path.parent, read), "folder": path.parent.name}
        )
    return rows, _texts_without(texts or folder, {Path(str(r["key"])).name for r in rows})


def unnamed_files(folder: Path, names: Callable[[Row], list[Any]]) -> Orphans:
    """Finds the picture files below a folder that no row names."""

    def find(rows: Sequence[Row]) -> list[str]:
        named = {str((folder / str(cell)).resolve()) for row in rows for cell in names(row) if cell}
        files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        return [str(p) for p in files if str(p.resolve()) not in named]

    return find


def _texts_without(folder: Path, stems: set[str]) -> Orphans:
    return lambda _: [str(p) for p in sorted(folder.rglob("*.txt")) if p.stem not in stems]


def _text_of(stem: str, folder: Path, read: Read) -> list[str]:
    if read.text_from == "name":
        return [stem.replace("_", " ")]
    path = folder / f"{stem}.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _numbered(images: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Pictures by the name before their number; one without a number stands for itself."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for stem, path in images.items():
        match = _NUMBERED.match(stem)
        name, number = (match[1], int(match[2])) if match else (stem, 0)
        found.setdefault(name, []).append((number, path))
    return {name: [path for _, path in sorted(paths)] for name, paths in found.items()}


def _images(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_ENDINGS}
