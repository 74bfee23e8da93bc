"""Drawing one prompt by whatever can: what `editkit generate` calls."""

from __future__ import annotations

from functools import partial
from typing import Any

from editkit.data.pictures import Picture
from editkit.errors import UserError
from editkit.evaluate.generate_file import generate_file


def generate(prompt: str, run: str, out: str | None, *, plan: bool, start: str | None, **sampling: Any) -> dict[str, Any]:
    """Draws and saves as `generate_file` does; in steps also by several models that work together.

    Args:
        prompt, out, plan, sampling: see `generate_file`.
        run: in steps also an editor, or a TOML file of back ends (see `editkit.modular.open.open_planner`).
        start: the picture file to begin with; in steps by editors only.

    Raises:
        UserError: as `generate_file`; a picture that cannot be read.
    """
    if not plan:
        if start is not None:
            raise UserError("--start: found it without --plan; add --plan, or use editkit edit IMAGE")
        return generate_file(prompt, run, out, **sampling)
    from editkit.modular.open import open_planner  # which brings the builders' editors along

    picture = Picture(path=start).open() if start is not None else None
    return generate_file(prompt, run, out, plan=True, **sampling, open_planner=partial(open_planner, start=picture))
