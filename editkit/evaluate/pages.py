"""What the reports share."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates() -> Environment:
    """The templates beside this file: whatever is put into one is text, and a name that is not given is a mistake."""
    return Environment(
        loader=PackageLoader("editkit.evaluate", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
