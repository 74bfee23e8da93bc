"""Whom a world's pictures are owed to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def by_licence(owed: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """(licence, credit) of every work, as licence -> all credits under it, for a builder's `credits`."""
    found: dict[str, list[str]] = {}
    for licence, credit in owed:
        found.setdefault(licence, []).append(credit)
    return {licence: "; ".join(credits) for licence, credits in found.items()}
