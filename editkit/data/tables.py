"""Tables that name picture files: JSON lines, JSON, CSV, whole or compressed, one or many, and what lies beside them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from editkit.data.row_groups import ParquetRows, file_system
from editkit.errors import UserError

METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.json")
# Fields that rows get: the folder of their table and its name; the name of a row in a JSON object of rows.
FOLDER, FOLDER_NAME, ID = "_folder", "_folder_name", "_id"


def open_tables(folder: Path, pattern: str, beside: str) -> Sequence[Mapping[str, Any]]:
    """The rows of all tables that a pattern finds, in the order of their names.

    Args:
        folder: where to look.
        pattern: of the tables; "" = a metadata file.
        beside: a JSON object in the folder of each table, whose fields its rows get; "" = none.

    Raises:
        UserError: there is no table, or one that cannot be read, with file and line.
    """
    paths = sorted(p for p in folder.glob(pattern) if p.is_file()) if pattern else _metadata(folder)
    if not paths:
        raise UserError(f"{folder}: found no table {pattern}")
    if paths[0].suffix == ".parquet":
        fs, _ = file_system(str(folder))
        return ParquetRows(fs, [str(p) for p in paths], str(folder / pattern))
    rows = TableRows()
    for path in paths:
        rows.add(path, _object(path.parent / beside) if beside else {})
    return rows


class TableRows(Sequence[Mapping[str, Any]]):
    """Rows of text tables. JSON lines are kept as bytes and read again when asked for, which takes far less memory."""

    def __init__(self) -> None:
        self._rows: list[bytes | dict[str, Any]] = []
        self._common: list[Mapping[str, Any]] = []  # of each table
        self._table: list[int] = []  # of each row

    def add(self, path: Path, common: Mapping[str, Any]) -> None:
        """Adds the rows of a table; `common` are fields that all of them get."""
        before = len(self._rows)
        self._rows += _lines(path) if ".jsonl" in path.suffixes else _whole(path)
        self._table += [len(self._common)] * (len(self._rows) - before)
        self._common.append({**common, FOLDER: str(path.parent), FOLDER_NAME: path.parent.name})

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        row = self._rows[index]
        return {**self._common[self._table[index]], **(json.loads(row) if isinstance(row, bytes) else row)}


def _metadata(folder: Path) -> list[Path]:
    path = next((folder / n for n in METADATA_NAMES if (folder / n).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: found no {', '.join(METADATA_NAMES[:-1])} or {METADATA_NAMES[-1]}")
    return [path]


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                line = line.strip().removeprefix(b"\xef\xbb\xbf")
                if line:
                    if not isinstance(_parsed(line, path, number), dict):
                        raise UserError(f"{path}:{number}: expected objects, one an example")
                    yield line
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _whole(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        yield from csv.DictReader(io.StringIO(text, newline=""))
        return
    rows = _parsed(text, path)
    if isinstance(rows, dict):  # rows by name, one or several each
        listed = [(name, r) for name, rs in rows.items() for r in (rs if isinstance(rs, list) else [rs])]
        rows = [{ID: name, **r} if isinstance(r, dict) else r for name, r in listed]
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise UserError(f"{path}: expected objects, one an example")
    yield from rows


def _parsed(text: bytes | str, path: Path, number: int = 0) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        line = number or getattr(error, "lineno", 1)
        raise UserError(f"{path}:{line}: not valid JSON ({getattr(error, 'msg', error)})") from error


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"[read] beside: found no {path}")
    found = _parsed(path.read_text(encoding="utf-8-sig"), path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected one JSON object")
    return found
