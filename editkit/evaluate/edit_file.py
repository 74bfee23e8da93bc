"""Editing one file, as `editkit edit` does."""

from __future__ import annotations

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
    for name, value, least in (
        ("--text-guidance", text_guidance, 1), ("--image-guidance", image_guidance, 1), ("--steps", steps, 1)
    ):  # fmt: skip
        if value is not None and value < least:
            raise UserError(f"{name}: found {value:g}; expected {least} or more")
    path = Path(out or f"{Path(image).stem}-edit.png")
    if path.suffix.lower() not in WRITABLE:
        raise UserError(f'{path}: found the ending "{path.suffix}"; expected one of {", ".join(sorted(WRITABLE))}')
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")
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
