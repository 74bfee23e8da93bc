"""Editing one file, as `editkit edit` does."""

from __future__ import annotations

import math
from pathlib import Path

from editkit.data.pictures import Picture
from editkit.errors import UserError
from editkit.models.editor import load_editor
from editkit.models.precision import choose_device
from editkit.progress import progress

WRITABLE = {".png", ".jpg", ".jpeg", ".webp"}


def edit_file(
    image: str,
    instruction: str,
    run: str,
    out: str | None,
    *,
    text_guidance: float | None = None,
    image_guidance: float | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Path:
    """Edits a picture and writes the result.

    Args:
        image: the source file.
        instruction: what to do.
        run: the editor (see `load_editor`).
        out: where to write; None = `<name>-edit.png` in the current folder.
        text_guidance, image_guidance, steps: None = the editor's defaults.
        seed: of the noise.

    Returns:
        The file written.
    """
    if not instruction.strip():
        raise UserError('the instruction is empty; say what to do, such as "make the hair red"')
    check_sampling(text_guidance, image_guidance, steps)
    path = Path(out or f"{Path(image).stem}-edit.png")
    check_place(path)
    source = Picture(path=image).open()
    editor = load_editor(run, device=choose_device())
    total = steps or editor.defaults["steps"]
    with progress(total, "editing") as bar:
        edited = editor.edit(
            [source], [instruction], text_guidance=text_guidance, image_guidance=image_guidance, steps=steps, seed=seed,
            progress=lambda done, of: bar.advance(),
        )[0]  # fmt: skip
    edited.save(path)
    return path


def check_sampling(text_guidance: float | None, image_guidance: float | None, steps: int | None) -> None:
    """Raises UserError for an option that no sampler takes; None = not given."""
    for name, value in (("--text-guidance", text_guidance), ("--image-guidance", image_guidance), ("--steps", steps)):
        if value is not None and not 1 <= value < math.inf:
            raise UserError(f"{name}: found {value:g}; expected 1 or more")


def check_place(path: Path) -> None:
    """Raises UserError where a picture cannot be written, before any work."""
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f'{path}: found the ending "{path.suffix}"; expected one of {", ".join(sorted(WRITABLE))}')
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected the name of a file")
