"""What a cell of a table stands for: a picture, a mask, texts, a number."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from editkit.data.archives import Archive, Member, members_of, picture_of
from editkit.data.fields import MISSING, find
from editkit.data.pictures import Picture, PictureError, png_bytes
from editkit.data.tables import FOLDER

Row = Mapping[str, Any]


class Cells:
    """Opens the pictures that cells name.

    Args:
        folder: where relative paths begin; None = the folder of the row's table.
        archives: where those pictures lie that are no files.
    """

    def __init__(self, folder: Path | None, archives: Sequence[Archive] = ()) -> None:
        self._folder = folder
        self._members = {m.name: m for m in members_of(archives)} if archives else {}

    def picture(self, row: Row, cell: Any) -> Picture:
        """The picture of a cell: a path, bytes, a member of an archive, or a Hugging Face struct of bytes and path."""
        if isinstance(cell, Member):
            return picture_of(cell)
        if isinstance(cell, Mapping):
            if cell.get("bytes"):
                return Picture(data=cell["bytes"], label=cell.get("path") or "picture")
            cell = cell.get("path")
        if isinstance(cell, bytes):
            return Picture(data=cell, label="picture")
        if cell is None or cell is MISSING:
            return Picture(data=b"", label="no picture")
        member = self._members.get(str(cell).removeprefix("./"))
        if member is not None:
            return picture_of(member)
        if str(cell).startswith(("http://", "https://")):
            return WebPicture(label=str(cell))
        return Picture(path=self.folder(row) / str(cell))

    def folder(self, row: Row) -> Path:
        """Where the relative paths of a row begin."""
        return self._folder if self._folder is not None else Path(row.get(FOLDER, ""))


def pictures_at(row: Row, places: Sequence[str]) -> list[Any]:
    """The cells of pictures at several places, of which each may hold one, a list of them, or none."""
    found = [find(row, place) for place in places]
    cells = [c for cell in found for c in (cell if isinstance(cell, (list, tuple)) else [cell])]
    return [c for c in cells if not is_empty(c)]


def is_empty(cell: Any) -> bool:
    """Whether a cell names no picture."""
    if isinstance(cell, Mapping):
        return not (cell.get("bytes") or cell.get("path"))
    return cell is MISSING or cell is None or cell == ""


def texts_at(row: Row, places: Sequence[str], strip: Sequence[str] = ()) -> tuple[str, ...]:
    """The texts at several places, of which each may hold one or a list of them.

    Nothing and white space become no text, which the doctor reports.
    """
    found = [find(row, place) for place in places]
    cells = [c for cell in found for c in (cell if isinstance(cell, (list, tuple)) else [cell])]
    texts = [str(c) for c in cells if c is not MISSING and c is not None]
    for piece in strip:
        texts = [t.replace(piece, " ") for t in texts]
    return tuple(dict.fromkeys(t.strip() for t in texts if t.strip())) or ("",)


def text_at(row: Row, place: str) -> str:
    """One text, "" where there is none."""
    found = find(row, place) if place else MISSING
    return "" if found is MISSING or found is None else str(found)


def number_at(row: Row, place: str) -> float | None:
    """A number, or a text that is one; None where there is none."""
    found = find(row, place)
    try:
        return float(found)
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class WebPicture(Picture):
    """A picture that nobody has downloaded: training fetches nothing from strangers' servers."""

    def read_bytes(self) -> bytes:
        raise PictureError(self.name, "is a web address; download the pictures and name a column with their files")


@dataclass(frozen=True, slots=True)
class MaskOf(Picture):
    """A mask that marks the edited part in black or by transparency, given as ours are: white where the edit may be."""

    picture: Picture | None = None
    shows: str = "black"

    def read_bytes(self) -> bytes:
        assert self.picture is not None
        data = self.picture.read_bytes()
        if self.shows == "black":
            mask = ImageChops.invert(self.picture.open().convert("L"))
        else:
            self.picture.open()  # says what is wrong with a damaged file
            with Image.open(io.BytesIO(data)) as image:
                mask = ImageChops.invert(image.convert("RGBA").getchannel("A"))
        return png_bytes(mask.convert("RGB"))


def mask_of(picture: Picture, shows: str) -> Picture:
    """A mask in our form."""
    return picture if shows == "white" else MaskOf(label=picture.name, picture=picture, shows=shows)
