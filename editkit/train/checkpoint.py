"""Checkpoints: a folder that is whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from editkit.errors import UserError

FORMAT = 1
STATE = "state.pt"
MANIFEST = "manifest.json"


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:06d}"


def save_checkpoint(run: Path, step: int, state: Mapping[str, Any], identity: Mapping[str, Any], keep_last: int) -> Path:
    """Writes a checkpoint to a staging folder, its manifest last, and renames it; then drops the oldest ones.

    Args:
        run: the run folder.
        step: optimiser steps done.
        state: everything with state, as `state_dict()`s.
        identity: what a resume must match (recipe, data, base weights).
        keep_last: how many checkpoints stay.
    """
    folder = checkpoint_folder(run, step)
    staging = folder.with_name(f"{folder.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    torch.save(dict(state), staging / STATE)
    _sync(staging / STATE)
    manifest = {"format": FORMAT, "step": step, "identity": dict(identity), "sha256": _sha256(staging / STATE)}
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(staging / MANIFEST)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staging, folder)
    for old in list_checkpoints(run)[:-keep_last]:
        shutil.rmtree(old)
    return folder


def list_checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(p.parent for p in (run / "checkpoints").glob(f"step-*/{MANIFEST}") if not p.parent.name.endswith(".staging"))


def load_checkpoint(run: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The newest checkpoint that is whole and belongs to this recipe, data and base.

    Raises:
        UserError: there is none, or its identity differs; the message names what differs.
    """
    for folder in reversed(list_checkpoints(run)):
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] > FORMAT:
            raise UserError(f"{folder}: found format {manifest['format']}; this version knows up to {FORMAT}; update editkit")
        if not (folder / STATE).is_file() or _sha256(folder / STATE) != manifest["sha256"]:
            print(f"{folder}: damaged, the one before it is used")
            continue
        differing = [k for k in identity if manifest["identity"].get(k) != identity[k]]
        if differing:
            found = ", ".join(f"{k}: {manifest['identity'].get(k)} in the run, {identity[k]} now" for k in differing)
            raise UserError(f"{run}: cannot be resumed, it was made from something else ({found}); start a new run")
        return torch.load(folder / STATE, map_location="cpu", weights_only=True)
    raise UserError(f"{run}: found no whole checkpoint to resume from; start a new run without --resume")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
