"""Other people's data, read through the `[read]` table of a data spec: a few general layouts, no reader for a single set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from editkit.data.archives import WebDatasetRows, find_archives
from editkit.data.cells import Cells, is_empty, mask_of, number_at, pictures_at, text_at, texts_at
from editkit.data.examples import SCORE, AnyExample, CaptionedImage, Dataset, EditPair, EditRequest, all_texts, pictures_of
from editkit.data.fields import MISSING, find
from editkit.data.folders import image_rows, need_folder, pair_rows, place, unnamed_files
from editkit.data.hub import hub_rows
from editkit.data.pictures import PictureError
from editkit.data.plan import REFERENCES_UNUSED, check_here, has_references
from editkit.data.row_groups import RESIDENT_BYTES, ParquetRows
from editkit.data.spec import DataSpec, Read, as_list
from editkit.data.tables import open_tables
from editkit.data.units import Units, at_turn, columns_of, counts_by_group
from editkit.errors import UserError, did_you_mean

Row = Mapping[str, Any]

LOOKED_AT = 50  # rows in which a column may first appear: JSON leaves out what is empty


def open_foreign(spec: DataSpec, root: Path, split: str) -> Dataset[Any]:
    """Opens one split of the data that `[read]` describes.

    Args:
        spec: a data spec with a `[read]` table.
        root: the folder of the spec file, to which its paths are relative.
        split: "train" or "test".

    Raises:
        UserError: it is not there, is not what the spec says, or is an evaluation set that was asked for training.
    """
    read = spec.read
    assert read is not None
    if split not in ("train", "test"):
        raise UserError(f'{spec.name}: found no split "{split}"; expected "train" or "test"')
    if spec.role == "evaluation" and split == "train":
        raise UserError(
            f'{spec.name}: found role = "evaluation": nobody may train on it; expected training data '
            "(it can be data.test, or stand in data.keep_out)"
        )
    check_here(spec, root)
    rows, cells, orphans = _open(spec, read, root, split)
    if len(rows) == 0:
        raise UserError(f"{spec.name}: found no examples; check the paths of [read]")
    if isinstance(rows, ParquetRows):
        rows.only(columns_of(_places(spec), read.turns, rows.columns))
        if rows.is_remote:
            return RemoteRows(spec, rows, cells, split, orphans)
    return RowDataset(spec, rows, cells, split, orphans)


def _open(spec: DataSpec, read: Read, root: Path, split: str) -> tuple[Sequence[Row], Cells, Callable[[Any], list[str]]]:
    if read.layout == "pairs":
        rows, orphans = pair_rows(root, read)
        return rows, Cells(Path()), orphans
    if read.layout == "images":
        rows, orphans = image_rows(root, read)
        return rows, Cells(Path()), orphans
    if read.layout == "hf":
        name = read.test_split if read.test_split and split == "test" else read.split
        return hub_rows(root, read, name), Cells(place(root, read.path)), lambda _: []
    folder = need_folder(root, read.path, "path")
    if read.layout == "webdataset":
        return WebDatasetRows(find_archives(folder, read.files or "**/*.tar")), Cells(folder), lambda _: []
    rows = open_tables(folder, read.table, read.beside)
    above = folder if read.root is None and isinstance(rows, ParquetRows) else None
    cells = Cells(folder / read.root if read.root is not None else above, _archives(folder, read))
    plain = not (read.table or read.archives)
    return rows, cells, unnamed_files(folder, lambda row: _picture_cells(spec, row)) if plain else lambda _: []


def _archives(folder: Path, read: Read) -> Any:
    return find_archives(folder, read.archives) if read.archives else ()


def _places(spec: DataSpec) -> list[str]:
    """Everything that is looked up in a row."""
    read = spec.read
    assert read is not None
    turns = [read.turns.each, read.turns.instruction, read.turns.target] if read.turns else []
    columns = [place for listed in read.columns.names(spec.kind).values() for place in listed]
    return [p for p in [*columns, *turns, *(k.column for k in read.keep)] if p]


def _picture_cells(spec: DataSpec, row: Row) -> list[Any]:
    assert spec.read is not None
    columns = spec.read.columns
    return pictures_at(
        row, [c for c in (columns.source, columns.target, columns.mask, columns.image, *as_list(columns.references)) if c]
    )


class RowDataset:
    """Rows of a table as examples: columns by the names that the spec gives them."""

    def __init__(
        self, spec: DataSpec, rows: Sequence[Row], cells: Cells, split: str, orphans: Callable[[Sequence[Row]], list[str]]
    ) -> None:
        assert spec.read is not None
        self._spec, self._read, self._columns = spec, spec.read, spec.read.columns
        self._rows, self._cells, self._split, self._orphans = rows, cells, split, orphans
        self._check_columns()
        whole = spec.role == "evaluation" or bool(self._read.test_split)
        self._units = Units(spec, rows, "" if whole else split, self._key)

    def _check_columns(self) -> None:
        known = self._rows.group_sizes[0] if isinstance(self._rows, ParquetRows) else len(self._rows)
        firsts = [self._rows[i] for i in range(min(LOOKED_AT, known))]
        turns = self._read.turns
        if turns is not None:
            firsts = [at_turn(row, turns, 0) for row in firsts if not turns.each or find(row, turns.each)]
        for name, listed in self._columns.names(self._spec.kind).items():
            for column in listed:
                if self._is_given(name, column):
                    continue
                column = self._at(name, column, 0)
                if all(find(row, column) is MISSING for row in firsts):
                    present = [c for c in firsts[0] if not c.startswith("_")] if firsts else []
                    hint = did_you_mean(column, present, f"the data has {', '.join(present)}")
                    raise UserError(f'{self._spec.name}: [read.columns] {name}: found no column "{column}"; {hint}')

    def _is_given(self, name: str, column: str) -> bool:
        """Whether something else than a column stands for it."""
        texts = ("instruction", "caption")
        return name in texts and bool(self._read.phrasings or self._read.layout in ("pairs", "images"))

    def _at(self, name: str, column: str, turn: int) -> str:
        turns = self._read.turns
        if turns is not None and not turns.each and name in ("instruction", "target"):
            column = getattr(turns, name)
            return column.replace("{n}", str(turn + 1)).replace("{i}", str(turn))
        return column

    def _key(self, row: Row, number: int) -> str:
        column = self._columns.key or ("key" if self._read.layout in ("pairs", "images") else "")
        column = column or ("__key__" if self._read.layout == "webdataset" else "")
        found = find(row, column) if column else MISSING
        return f"{number:06d}" if found is MISSING or found is None else str(found)

    @cached_property
    def info(self) -> Mapping[str, Any]:
        return {
            "name": self._spec.name,
            "kind": self._spec.kind,
            "sha256": self._sha256(),
            "counts": {self._split: len(self)},
            "licences": {self._spec.licence or "not stated": {"count": len(self), "credit": self._spec.credit}},
            "categories": {},
            "notes": [REFERENCES_UNUSED] if has_references(self._spec) else [],
        }

    def _sha256(self) -> str:
        digest = hashlib.sha256()
        for i in range(len(self)):
            for part in _fingerprint(self[i]):
                digest.update(part)
        return digest.hexdigest()

    def texts(self) -> Iterator[tuple[str, ...]]:
        """The texts of every example, in order; of Parquet files the columns that hold them are read and no other."""
        rows: Any = self._rows
        turns = self._read.turns
        if isinstance(rows, ParquetRows):
            name = "caption" if self._spec.kind == "captioned_images" else "instruction"
            places = [*as_list(getattr(self._columns, name)), *as_list(self._columns.inverse)]
            places += [turns.each, turns.instruction] if turns else []
            rows = rows.scan(columns_of([p for p in places if p], turns, rows.columns))
        at = 0
        for number, row in enumerate(rows):
            while at < len(self) and self._units.rows[at] == number:
                turn = int(self._units.turns[at])
                yield self._said(at_turn(row, turns, turn), turn, bool(self._units.backs[at]))
                at += 1

    def _said(self, row: Row, turn: int, back: bool) -> tuple[str, ...]:
        if back:
            return texts_at(row, as_list(self._columns.inverse), self._read.strip)
        if self._spec.kind == "captioned_images":
            return self._texts(row, "caption", self._columns.caption, turn)
        return self._texts(row, "instruction", self._columns.instruction, turn)

    @property
    def rows_found(self) -> int:
        """Rows of the data, before any is left out or becomes several examples."""
        return len(self._rows)

    @property
    def unread(self) -> list[str]:
        """Columns of the data that nothing is read from."""
        row = self._rows[0]
        present = self._rows.columns if isinstance(self._rows, ParquetRows) else [c for c in row if not c.startswith("_")]
        if self._read.layout in ("pairs", "images"):
            return []
        return [c for c in present if c not in columns_of(_places(self._spec), self._read.turns, list(present))]

    @property
    def group_sizes(self) -> list[int]:
        """Examples of each row group, in order; [] where all rows are in memory."""
        return counts_by_group(self._units.rows, self._rows.group_sizes) if isinstance(self._rows, ParquetRows) else []

    @property
    def window(self) -> int:
        """How many row groups can be shuffled together so that they stay in memory; 0 = all."""
        nbytes = self._rows.group_bytes if isinstance(self._rows, ParquetRows) else []
        return 0 if sum(nbytes) <= RESIDENT_BYTES else max(1, RESIDENT_BYTES // (2 * max(nbytes)))

    def unnamed_files(self) -> list[str]:
        """Picture files in the folders that no row uses."""
        return self._orphans(self._rows)

    def __len__(self) -> int:
        return len(self._units)

    def __getitem__(self, index: int) -> AnyExample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number, turn = int(self._units.rows[index]), int(self._units.turns[index])
        row = at_turn(self._rows[number], self._read.turns, turn)
        key = self._key(row, number)
        if self._spec.kind == "captioned_images":
            return CaptionedImage(
                key=key,
                image=self._cells.picture(row, find(row, self._columns.image)),
                captions=self._said(row, turn, False),
                licence=self._spec.licence,
            )
        suffix = f"-turn{turn + 1}" if self._read.turns else ""
        return self._edit(row, key + suffix, turn, bool(self._units.backs[index]))

    def _edit(self, row: Row, key: str, turn: int, back: bool) -> EditPair | EditRequest:
        columns = self._columns
        named = {name: name for name in columns.scores} | ({SCORE: columns.score} if columns.score else {})
        scores = {name: number for name, column in named.items() if (number := number_at(row, column)) is not None}
        mask = find(row, columns.mask) if columns.mask else None
        references = columns.references or (["references"] if self._read.layout == "pairs" else [])
        common: dict[str, Any] = {
            "key": key,
            "source": self._cells.picture(row, self._source(row, turn)),
            "instructions": self._said(row, turn, False),
            "category": text_at(row, columns.category),
            "mask": None if is_empty(mask) else mask_of(self._cells.picture(row, mask), self._read.mask_shows),
            "source_caption": text_at(row, columns.source_caption),
            "target_caption": text_at(row, columns.target_caption),
            "licence": self._spec.licence,
            "references": tuple(self._cells.picture(row, cell) for cell in pictures_at(row, as_list(references))),
            "scores": scores,
        }
        if self._spec.kind == "edit_requests":
            return EditRequest(**common)
        target = self._cells.picture(row, find(row, self._at("target", columns.target, turn)))
        if not back:
            return EditPair(target=target, **common)
        exchanged: dict[str, Any] = {
            "key": f"{key}-inverse",
            "source": target,
            "instructions": self._said(row, turn, True),
            "source_caption": common["target_caption"],
            "target_caption": common["source_caption"],
            "references": (),  # what was added with their help is there already
        }
        return EditPair(target=common["source"], **(common | exchanged))

    def _source(self, row: Row, turn: int) -> Any:
        turns = self._read.turns
        if turns is None or turns.each or turn == 0 or turns.source == "original":
            return find(row, self._columns.source)
        return find(row, self._at("target", "", turn - 1))

    def _texts(self, row: Row, name: str, columns: str | list[str], turn: int) -> tuple[str, ...]:
        if self._read.phrasings:
            return tuple(self._read.phrasings)
        if self._read.layout in ("pairs", "images"):
            return texts_at(row, ["text"])
        if self._read.turns is not None and not self._read.turns.each:
            return texts_at(row, [self._at(name, "", turn)], self._read.strip)
        return texts_at(row, as_list(columns), self._read.strip)


class RemoteRows(RowDataset):
    """Rows behind a URL: known by the marks of their files, since reading all of them would take days."""

    def verify(self) -> None:
        """Asks whether every file is there and ends as Parquet files do.

        Raises:
            UserError: one cannot be reached, or is damaged.
        """
        _ = self.group_sizes

    def _sha256(self) -> str:
        assert isinstance(self._rows, ParquetRows)
        said = json.dumps(self._read.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(f"{self._split} {said} {self._rows.fingerprint()}".encode()).hexdigest()


def _fingerprint(example: AnyExample) -> Iterator[bytes]:
    """What a data set's hash covers: key, texts, and every byte of the pictures that can be read."""
    yield json.dumps([example.key, list(all_texts(example))]).encode()
    for role, picture in pictures_of(example):
        try:
            yield role.encode() + hashlib.sha256(picture.read_bytes()).digest()
        except PictureError as error:
            yield f"{role}: {error.why}".encode()
