"""Places in a row of somebody else's table, as data specs write them.

"prompt" a column; "image[0]", "image[1:]", "image[-1]" entries of a list; "conversations[0].value" a field of an entry;
"files[id=final].url" the entry whose "id" is "final"; "edit_instruction | edit" the first of both that is there;
"{seed}_0.jpg" a text made of other places. A column whose name has dots in it is found by that name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

MISSING: Any = object()  # what `find` gives where there is nothing; None is a value that data have

_PATTERN = re.compile(r"\{([^{}]+)\}")
_ENTRY = re.compile(r"\[(?:(-?\d+)|(\d*):(\d*)|([^\]=]+)=([^\]]*))\]")


def find(row: Mapping[str, Any], place: str) -> Any:
    """The value at a place of a row; MISSING where there is none."""
    if "|" in place:
        found = (find(row, one.strip()) for one in place.split("|"))
        return next((v for v in found if v is not MISSING and v is not None), MISSING)
    if "{" in place:
        return _fill(row, place)
    return _walk(row, place)


def starts_of(places: Iterable[str], columns: Collection[str]) -> list[str]:
    """Those columns in which the places lie, so that the others need not be read."""
    wanted: set[str] = set()
    for place in places:
        for one in _PATTERN.findall(place) or place.split("|"):
            wanted |= {c for c in columns if _begins(one.strip(), c)}
    return [c for c in columns if c in wanted]


def _fill(row: Mapping[str, Any], pattern: str) -> Any:
    values = {one: find(row, one) for one in _PATTERN.findall(pattern)}
    if any(v is MISSING or v is None for v in values.values()):
        return MISSING
    return _PATTERN.sub(lambda match: str(values[match[1]]), pattern)


def _walk(value: Any, rest: str) -> Any:
    while rest:
        if isinstance(value, Mapping):
            if rest in value:
                return value[rest]
            key = max((k for k in value if _begins(rest, k)), key=len, default=None)
            if key is None:
                return MISSING
            value, rest = value[key], rest[len(key) :].removeprefix(".")
        elif isinstance(value, (list, tuple)) and (match := _ENTRY.match(rest)):
            value, rest = _entry(value, match), rest[match.end() :].removeprefix(".")
        else:
            return MISSING
    return value


def _begins(place: str, column: str) -> bool:
    return place == column or (place.startswith(column) and place[len(column)] in ".[")


def _entry(values: list[Any] | tuple[Any, ...], match: re.Match[str]) -> Any:
    number, first, last, key, wanted = match.groups()
    if number is not None:
        return values[int(number)] if -len(values) <= int(number) < len(values) else MISSING
    if key is not None:
        return next((v for v in values if isinstance(v, Mapping) and str(v.get(key)) == wanted), MISSING)
    return list(values[int(first) if first else None : int(last) if last else None])
