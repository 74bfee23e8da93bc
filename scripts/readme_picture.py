"""Draws docs/edits.png for the README: unseen avatars, instructions, and what the shipped editor makes of them.

The pairs are the first of the test split of each kind, in the order of their kinds: chosen before anyone saw the edits.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from editkit.evaluate.pictures import contact_sheet, enlarge
from editkit.lab.avatar_edits import CATEGORIES, sample_edits
from editkit.models.editor import load_editor

SEED, DRAWN, SCALE, GAP = 2026, 200, 2, 6


def main() -> None:
    """Writes the picture."""
    pairs = sample_edits(DRAWN, seed=SEED, split="test")
    chosen = [next(p for p in pairs if p.category == kind) for kind in CATEGORIES]
    editor = load_editor("lab:tiny-edit")
    edits = editor.edit([p.source.open() for p in chosen], [p.instructions[0] for p in chosen])
    cells = [_beside(p.source.open(), edit) for p, edit in zip(chosen, edits, strict=True)]
    path = Path("docs") / "edits.png"
    contact_sheet(cells, [p.instructions[0] for p in chosen], columns=4).save(path, optimize=True)
    print(path)


def _beside(source: Image.Image, edit: Image.Image) -> Image.Image:
    large = [enlarge(x, SCALE) for x in (source, edit)]
    cell = Image.new("RGB", (2 * large[0].width + GAP, large[0].height), "#f5f4f1")
    cell.paste(large[0], (0, 0))
    cell.paste(large[1], (large[0].width + GAP, 0))
    return cell


if __name__ == "__main__":
    main()
