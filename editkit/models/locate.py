"""Where a model lies: "lab:NAME", a run, a folder, or a Hub id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editkit.errors import UserError
from editkit.models import METADATA
from editkit.runs import find_run

LAB = Path(__file__).parent.parent / "lab" / "checkpoints"


def locate_model(base: str, *, weights: bool = True) -> Path:
    """The local folder of a model in the stock layout.

    Args:
        base: "lab:NAME" (shipped with editkit), a folder, a run folder (its `model/`), or a Hub id "user/name", which is
            downloaded, or found in the Hub's own cache.
        weights: False = of a Hub repository the configurations alone are needed.

    Raises:
        UserError: nothing is there.
    """
    if base.startswith("lab:"):
        folder = LAB / base.removeprefix("lab:")
        if not folder.is_dir():
            shipped = ", ".join(sorted(f"lab:{p.name}" for p in LAB.iterdir() if p.is_dir())) if LAB.is_dir() else "none"
            raise UserError(f'found "{base}"; expected a shipped model ({shipped})')
        return folder
    folder = Path(base)
    if folder.is_dir():
        return folder / "model" if (folder / "model").is_dir() else folder
    if base.count("/") == 1 and not base.startswith((".", "/", "~")):
        return _download(base, weights)
    raise UserError(f'found no model at "{base}"; expected lab:NAME, a folder, a run or a Hub id such as user/name')


def locate_trained(run: str, names: Sequence[str]) -> Path:
    """The local folder of what a run produced; or of a model as `locate_model` finds one.

    Args:
        run: a run, "latest", "lab:NAME", a folder in the stock layout, or a Hub id.
        names: of the folders in which a run of this kind may have put it, the first that is there is taken.

    Raises:
        UserError: nothing is there, or the run has not come to its end.
    """
    if run.startswith("lab:"):
        return locate_model(run)
    try:
        folder = find_run(run)
    except UserError:
        if run == "latest":
            raise
        return locate_model(run)
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    listed = " nor ".join(f"{name}/" for name in sorted(names, reverse=True))
    raise UserError(f"{folder}: found {'no' if len(names) == 1 else 'neither'} {listed}; the run has not come to its end")


def read_metadata(folder: Path) -> dict[str, Any]:
    """What editkit wrote beside the weights of a folder: their method, how pictures are prepared, sampling; {} = nothing."""
    path = folder / METADATA
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def forget_place(module: Any) -> None:
    """Takes the folder that a model of diffusers was read from out of its configuration, which is saved and published."""
    module.register_to_config(_name_or_path="")


def version_of(model: str) -> str:
    """A hash over the weights and configurations of a model, by which a provenance names its version."""
    folder = locate_model(model)
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json", ".bin") and p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _download(repo: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(repo, allow_patterns=None if weights else ["*.json", "*.txt"]))
    except RepositoryNotFoundError as error:
        raise UserError(f'found no folder and no Hub repository "{repo}" (or no right to read it)') from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise UserError(
            f'"{repo}" is no folder, and the Hub cannot be reached ({type(error).__name__}); '
            "download it where there is a network and give its folder instead"
        ) from error
