"""Old formats to the present one: one function a step, in a list; index i brings format i + 1 to i + 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from editkit.errors import UserError
from editkit.recipe.schema import FORMAT

MIGRATIONS: list[Callable[[dict[str, Any]], dict[str, Any]]] = []


def migrate(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Brings the values of a file to the present format.

    Raises:
        UserError: the format is newer than this version knows, or no number.
    """
    found = values.get("format", FORMAT)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise UserError(f"{where}: found format = {found!r}; expected a whole number from 1 to {FORMAT}")
    if found > FORMAT:
        raise UserError(f"{where}: found format = {found}; this version knows up to {FORMAT}; update editkit")
    for step in MIGRATIONS[found - 1 :]:
        values = step(values)
    return values
