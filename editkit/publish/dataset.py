"""What of a data set goes out: its shards as they are, and its card with the lines that load it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from huggingface_hub import DatasetCard

from editkit.data.read import changed_shards
from editkit.data.spec import data_folder, load_spec
from editkit.errors import UserError

MANIFEST = "dataset.json"


def find_dataset(what: str) -> Path | None:
    """The data-set folder that `what` is, or that its spec builds; None where it is something else, such as a run.

    Raises:
        UserError: a spec whose data set is not built.
    """
    path = Path(what)
    if path.suffix != ".toml":
        return path if (path / MANIFEST).is_file() else None
    folder = data_folder(load_spec(path)[0])
    if not (folder / MANIFEST).is_file():
        raise UserError(f'{what}: found no data set in {folder}; run "editkit build {what}" first')
    return folder


def stage_dataset(folder: Path, repo: str, staging: Path) -> None:
    """Puts the files of a data set into `staging`, linked where the file system can, with a card that names the repository.

    Raises:
        UserError: a shard is not the one that was built, so that the card would not be true.
    """
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    path = next(changed_shards(folder, manifest), None)
    if path is not None:
        raise UserError(f"{folder}: data/{path.name} is missing or not as it was built; build the data set anew")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        to = staging / path.relative_to(folder)
        to.parent.mkdir(parents=True, exist_ok=True)
        _link(path, to)
    (staging / "README.md").unlink(missing_ok=True)  # the link, not the card of the folder
    card = DatasetCard.load(folder / "README.md")
    split = next(iter(manifest["counts"]))
    columns = {
        "edit_pairs": ("source", "instructions", "target"),
        "captioned_images": ("image", "captions"),
        "plan_traces": ("prompt", "steps"),
    }
    shown = ", ".join(f'example["{name}"]' for name in columns[manifest["kind"]])
    lines = [
        "from datasets import load_dataset",
        "",
        f'example = load_dataset("{repo}", split="{split}")[0]',
        f"print({shown})",
    ]
    card.text = card.text.rstrip() + "\n\n## Load it\n\n```python\n" + "\n".join(lines) + "\n```\n"
    card.save(staging / "README.md")


def _link(path: Path, to: Path) -> None:
    try:
        os.link(path, to)
    except OSError:  # another file system, or one without links
        shutil.copy(path, to)
