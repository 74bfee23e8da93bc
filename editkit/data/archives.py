"""Tar files as they come from the Hub, whole or cut into parts: members are found by name and read where they lie."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from editkit.data.pictures import Picture, PictureError
from editkit.errors import UserError
from editkit.progress import progress

IMAGE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
END = bytes(1024)  # what every whole tar file ends with
_PART = re.compile(r"[._-](?:part|split)[._-]?[a-z0-9]+$|\.\d{3}$")  # x.tar.split.000, x.tar.part-aa, x.tar.001


@dataclass(frozen=True, slots=True)
class Archive:
    """An uncompressed tar file that may lie in several parts, which are read as if they were joined.

    Attributes:
        name: of the whole.
        parts: the files, in order.
        starts: the first byte of each part in the whole, and the size of the whole.
    """

    name: str
    parts: tuple[Path, ...]
    starts: tuple[int, ...]

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the whole; each call opens the files itself, so threads and processes need no agreement."""
        pieces = []
        for part, first, end in zip(self.parts, self.starts, self.starts[1:], strict=False):
            begin, stop = max(offset, first), min(offset + size, end)
            if begin < stop:
                with part.open("rb") as file:
                    file.seek(begin - first)
                    pieces.append(file.read(stop - begin))
        return b"".join(pieces)


class _Joined(io.RawIOBase):
    """The parts of an archive as one file, for `tarfile`."""

    def __init__(self, archive: Archive) -> None:
        self._archive, self._at = archive, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._archive.starts[-1]}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._archive.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside an archive."""

    archive: Archive
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes."""
        return self.archive.read(self.offset, self.size)


@dataclass(frozen=True, slots=True)
class MemberPicture(Picture):
    """A picture inside an archive."""

    member: Member | None = None

    def read_bytes(self) -> bytes:
        assert self.member is not None
        try:
            return self._not_empty(self.member.read())
        except OSError as error:
            raise PictureError(self.name, f"cannot be read ({error.strerror})") from error


def picture_of(member: Member) -> Picture:
    """A member as a picture, named by its archive and its place there."""
    return MemberPicture(label=f"{member.archive.name}:{member.name}", member=member)


def find_archives(folder: Path, pattern: str) -> list[Archive]:
    """The archives that a pattern finds, with their parts put together in the order of their names.

    Raises:
        UserError: there are none, or they are compressed.
    """
    whole: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.glob(pattern) if p.is_file()):
        whole.setdefault(_PART.sub("", str(path)), []).append(path)
    if not whole:
        raise UserError(f"[read]: found no tar file {folder / pattern}")
    for name, paths in whole.items():
        with paths[0].open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                joined = f"cat {name}.* | " if len(paths) > 1 or str(paths[0]) != name else ""
                unpack = f"{joined}tar -xzf {'-' if joined else name} -C {folder}"
                raise UserError(f"{name}: is compressed, so single pictures cannot be read from it; unpack it: {unpack}")
    sizes = {name: [p.stat().st_size for p in paths] for name, paths in whole.items()}
    return [Archive(Path(n).name, tuple(paths), tuple(accumulate(sizes[n], initial=0))) for n, paths in whole.items()]


def members_of(archives: Sequence[Archive]) -> Iterator[Member]:
    """Every file of every archive, in order; reads the headers alone.

    Raises:
        UserError: an archive is damaged or incomplete.
    """
    with progress(len(archives), "reading what is in the archives") as bar:
        for archive in archives:
            try:
                if any(archive.read(archive.starts[-1] - len(END), len(END))):
                    raise tarfile.ReadError("its end is missing")
                with tarfile.open(fileobj=io.BufferedReader(_Joined(archive), 16 * 1024), mode="r:") as tar:
                    for info in tar:
                        if info.isfile():
                            if info.offset_data + info.size > archive.starts[-1]:
                                raise tarfile.ReadError("it ends in the middle of a file")
                            yield Member(archive, info.name.removeprefix("./"), info.offset_data, info.size)
                        tar.members = []  # ty: ignore[missing-attribute]  (it would keep every header)
            except (tarfile.TarError, OSError) as error:
                raise UserError(
                    f"{archive.name}: cannot be read as a tar file ({error}); are all of its parts there?"
                ) from error
            bar.advance()


class WebDatasetRows(Sequence[Mapping[str, Any]]):
    """Tar shards in which neighbouring files with the same name, up to the first dot, are one row.

    A row's columns are the endings ("jpg", "input.png", "txt", "json"), and "__key__". Texts and JSON are read when the row is
    asked for, pictures when they are opened.
    """

    def __init__(self, archives: Sequence[Archive]) -> None:
        self._rows: list[dict[str, Member]] = []
        self._keys: list[str] = []
        for member in members_of(archives):
            folder, _, name = member.name.rpartition("/")
            stem, _, ending = name.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            if not self._keys or key != self._keys[-1] or ending.lower() in self._rows[-1]:
                self._keys.append(key)
                self._rows.append({})
            self._rows[-1][ending.lower()] = member

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        values = {ending: _value(ending, member) for ending, member in self._rows[index].items()}
        return {"__key__": self._keys[index], **values}


def _value(ending: str, member: Member) -> Any:
    last = ending.rpartition(".")[2]
    if f".{last}" in IMAGE_ENDINGS:
        return member
    if last == "json":
        try:
            return json.loads(member.read())
        except ValueError as error:
            raise UserError(f"{member.archive.name}:{member.name}: not valid JSON ({error})") from error
    return member.read().decode("utf-8", "replace")
