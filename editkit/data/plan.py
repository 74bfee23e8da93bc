"""What a data spec would read, said before anything is: where it comes from, its licence, rows, columns and peculiarities."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from editkit.data.folders import place
from editkit.data.hub import download, where_is
from editkit.data.spec import DataSpec, Keep, Read
from editkit.errors import UserError

REFERENCES_UNUSED = "its examples have reference pictures beside the source; no training uses them yet, only the source"


def has_references(spec: DataSpec) -> bool:
    """Whether examples may have more pictures than source and target."""
    read = spec.read
    return read is not None and bool(read.columns.references or read.references or read.numbered)


def is_here(spec: DataSpec, root: Path) -> bool:
    """Whether the data lie on this machine; what would be read from the Hub does not."""
    read = spec.read
    assert read is not None
    if read.layout == "pairs":
        return all(place(root, path).is_dir() for path in (read.source, read.target))
    return "://" not in where_is(root, read) and place(root, read.path).exists()


def check_here(spec: DataSpec, root: Path) -> None:
    """Says how data are got that are neither here nor can be read from afar.

    Raises:
        UserError: they are not here.
    """
    read = spec.read
    assert read is not None
    how = how_to_get(spec, root)
    if how and not is_here(spec, root) and not _streams(read):
        raise UserError(f"{spec.name}: found nothing at {_place(spec, root)}; get it: {how}")


def how_to_get(spec: DataSpec, root: Path) -> str:
    """What brings the data here."""
    read = spec.read
    assert read is not None
    return spec.get or (download(read, _place(spec, root)) if read.repo else "")


def describe(spec: DataSpec, root: Path) -> dict[str, Any]:
    """What the spec says, resolved, as plain values for JSON.

    Args:
        spec: a data spec with a `[read]` table.
        root: the folder of the spec file.
    """
    read = spec.read
    assert read is not None
    return {
        "name": spec.name,
        "kind": spec.kind,
        "role": spec.role,
        "licence": spec.licence or "not stated",
        "credit": spec.credit,
        "homepage": spec.homepage,
        "from": _origin(read),
        "place": _place(spec, root),
        "here": is_here(spec, root),
        "streams": _streams(read),
        "get": how_to_get(spec, root),
        "layout": read.layout,
        "split": read.split if read.layout == "hf" else "all",
        "test": _test(spec),
        "rows expected": spec.expect.rows,
        "about": spec.expect.about,
        "test rows expected": spec.expect.test_rows,
        "columns": _columns(spec),
        "kept": [_condition(k) for k in read.keep],
        "makes": _makes(spec),
        "notes": list(spec.notes),
        "unverified": list(spec.unverified),
    }


def as_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for people; what is empty is left out."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{role} = {', '.join(names)}" for role, names in value.items())
        elif isinstance(value, list):
            value = "\n".join(value)
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, int):
            value = f"{value:,}"
        if value:
            lines.append((name, str(value)))
    return lines


def _streams(read: Read) -> bool:
    return read.layout == "hf" and bool(read.repo or "://" in read.path)


def _place(spec: DataSpec, root: Path) -> str:
    read = spec.read
    assert read is not None
    if read.layout == "pairs":
        return " and ".join(os.path.normpath(place(root, path)) for path in (read.source, read.target))
    return read.path if "://" in read.path else os.path.normpath(place(root, read.path)) if read.path else where_is(root, read)


def _origin(read: Read) -> str:
    if not read.repo:
        return ""
    return f"hf://datasets/{read.repo}@{read.revision}" + (
        " (it moves; name a commit to hold it)" if read.revision == "main" else ""
    )


def _test(spec: DataSpec) -> str:
    read = spec.read
    assert read is not None
    if spec.role == "evaluation":
        return "all of it"
    if read.test_split:
        return f'the split "{read.test_split}"'
    by = " of groups of " + read.columns.group if read.columns.group else ""
    return f"{spec.split.test:.0%}{by}, by a hash of the key"


def _columns(spec: DataSpec) -> dict[str, list[str]]:
    read = spec.read
    assert read is not None
    if read.layout in ("pairs", "images"):
        return {}
    named = read.columns.names(spec.kind)
    if read.phrasings:
        named.pop("instruction", None)
    if read.turns is not None and not read.turns.each:
        named |= {"instruction": [read.turns.instruction], "target": [read.turns.target]}
    return named


def _condition(keep: Keep) -> str:
    if keep.one_of:
        return f"{keep.column} is one of {', '.join(map(str, keep.one_of))}"
    low = [f"{keep.column} at least {keep.at_least:g}"] if keep.at_least is not None else []
    high = [f"{keep.column} at most {keep.at_most:g}"] if keep.at_most is not None else []
    return " and ".join(low + high)


def _makes(spec: DataSpec) -> list[str]:
    """What is more than a pair a row."""
    read = spec.read
    assert read is not None
    columns = read.columns
    found = []
    if read.turns is not None:
        own = "as the turn itself says" if read.turns.each else f"the {read.turns.source} picture"
        found.append(f"an example for each turn of a row; the source of a later turn is {own}")
    if columns.inverse:
        found.append("a second example a row, with source and target exchanged")
    if isinstance(columns.instruction, list) or read.phrasings:
        found.append("several phrasings an example: training draws one, evaluation takes the first")
    if columns.mask and read.mask_shows != "white":
        by = "transparency" if read.mask_shows == "transparent" else "black"
        found.append(f"masks that mark the edit by {by}, turned so that it is white")
    if has_references(spec):
        found.append(REFERENCES_UNUSED)
    return found
