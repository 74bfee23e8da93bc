"""Checkpoints that are whole or not there, in one format for one process and for many.

checkpoints/step-000400/
    __0_0.distcp ... .metadata    the tensors, by `torch.distributed.checkpoint`: every process writes its shards,
                                  and any number of processes can load them
    facts.json                    the rest of the state, with a reference in the place of each tensor
    manifest.json                 written last: format, step, identity, metrics, hash and size of every file, a seal
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from editkit.errors import UserError
from editkit.train import sealed
from editkit.train.identity import check_identity
from editkit.train.ranks import on_first, together, world
from editkit.train.sealed import DamagedError
from editkit.train.shards import METADATA, pack, read_tensors, stored_tensors, unpack, write_tensors

FORMAT = 2
FACTS = "facts.json"
NAME = re.compile(r"step-(\d{6,})")
T = TypeVar("T")

Place = Callable[[tuple[str, ...], torch.Size, torch.dtype], torch.Tensor | None]
"""From a tensor's path in the state, its full shape and its dtype to where it is loaded; None = a new tensor on the CPU."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Which checkpoints stay on the disk.

    Attributes:
        last: how many of the newest.
        best: how many of the best by `metric`, among the newest or not.
        metric: a name of the saved metrics; the highest is best, with "-" before the name the lowest.
    """

    last: int = 2
    best: int = 0
    metric: str = ""


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:06d}"


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; whether the disk kept them whole is only known to `newest_whole`."""
    return sorted((p for p in (run / "checkpoints").glob("step-*") if NAME.fullmatch(p.name)), key=_step_of)


def was_saved(run: Path) -> bool:
    """Whether the run ever had a checkpoint, in whatever state it is now."""
    places = (run / "checkpoints").glob("step-*")
    return any(NAME.fullmatch(p.name.removesuffix(sealed.REPLACED)) for p in places)


def save_checkpoint(
    run: Path,
    step: int,
    state: Mapping[str, Any],
    identity: Mapping[str, str],
    keep: Keep,
    metrics: Mapping[str, float] | None = None,
) -> Path:
    """Writes a checkpoint to a staging folder, its manifest last, and renames it; then drops those that need not stay.

    All processes call it together. Tensors may be `DTensor`s; a plain tensor is the same in every process. Of what is no
    tensor, rank 0's is written.

    Args:
        run: the run folder, the same for all processes.
        step: optimiser steps done.
        state: mappings, lists and tuples of tensors, numbers, texts, booleans and None.
        identity: what a resume must match (see `editkit.train.identity`).
        keep: what stays.
        metrics: figures of this step; see also `note_metrics`.

    Raises:
        UserError: the disk is full or cannot be written; earlier checkpoints are untouched.
        ValueError: the state holds something else.
    """
    folder = checkpoint_folder(run, step)
    staging = sealed.staging_of(folder)
    tensors: dict[str, torch.Tensor] = {}
    facts = pack(state, (), tensors)
    needed = sum(t.numel() * t.element_size() for t in tensors.values())
    free = shutil.disk_usage(run).free
    rank, _ = world()

    def prepare() -> int:
        nonlocal free
        staging.parent.mkdir(exist_ok=True)
        sealed.clean(staging.parent)
        free = shutil.disk_usage(run).free
        staging.mkdir()
        if free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        (staging / FACTS).write_text(json.dumps(facts, separators=(",", ":")), encoding="utf-8")
        return free

    def settle() -> dict[str, dict[str, Any]]:
        return sealed.settle([*staging.glob(f"__{rank}_*"), *([staging / METADATA, staging / FACTS] if rank == 0 else [])])

    def finish(files: dict[str, dict[str, Any]]) -> None:
        figures = {k: float(v) for k, v in (metrics or {}).items()}
        manifest = {"format": FORMAT, "step": step, "identity": dict(identity), "metrics": figures, "files": files}
        sealed.write_manifest(staging, manifest)
        sealed.put_in_place(folder)

    def explain(action: Callable[[], T]) -> Callable[[], T]:
        """The action, with a UserError for what the disk refuses."""

        def explained() -> T:
            try:
                return action()
            except OSError as error:
                raise UserError(
                    f"{run}: step {step} was not saved: {error.strerror} ({needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB "
                    f"free); earlier checkpoints are untouched; make space and go on with --resume {run}"
                ) from error

        return explained

    try:
        free = on_first(explain(prepare))  # one figure for the messages of all processes
        explain(lambda: write_tensors(staging, tensors))()
        files = {name: of for part in together(explain(settle)) for name, of in part.items()}
        on_first(explain(lambda: finish(files)))
    except BaseException:
        if rank == 0:
            shutil.rmtree(staging, ignore_errors=True)
        raise
    on_first(lambda: _prune(run, step, keep))
    return folder


def note_metrics(run: Path, step: int, metrics: Mapping[str, float], keep: Keep) -> None:
    """Adds figures to a checkpoint that were measured after it was saved, such as those of its preview.

    Args:
        run: the run folder.
        step: the step of the checkpoint, the newest one.
        metrics: name -> figure.
        keep: what stays now.
    """

    def note() -> None:
        folder = checkpoint_folder(run, step)
        manifest = sealed.read_manifest(folder)
        manifest["metrics"] |= {k: float(v) for k, v in metrics.items()}
        sealed.write_manifest(folder, manifest)
        _prune(run, step, keep)

    on_first(note)


def load_checkpoint(
    run: Path, identity: Mapping[str, str], despite: Collection[str] = (), place: Place | None = None
) -> dict[str, Any]:
    """The newest checkpoint that is whole and belongs to this recipe, data and base, for going on with the run.

    All processes call it together. A damaged one is named on stderr and the one before it used. What a killed process left
    half-written or half-deleted is removed.

    Args:
        run: the run folder.
        identity: what the checkpoint must match.
        despite: names in it that may differ (`train.resume_despite`).
        place: where the tensors go (see `editkit.train.state.places`).

    Returns:
        The state as it was saved.

    Raises:
        UserError: there is none, or its identity differs; the message lists what differs.
    """

    def choose() -> Path:
        sealed.clean(run / "checkpoints")
        folder, manifest = newest_whole(run)
        check_identity(run, manifest["identity"], identity, list(despite))
        return folder

    return read_checkpoint(on_first(choose), place)


def newest_whole(run: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint whose files are what was written, and its manifest; it changes nothing on the disk.

    Raises:
        UserError: there is none.
    """
    for folder in reversed(list_checkpoints(run)):
        try:
            manifest = sealed.read_manifest(folder)
            if manifest["format"] > FORMAT:
                raise UserError(f"{folder}: found format {manifest['format']}; this version knows {FORMAT}; update editkit")
            if manifest["step"] != _step_of(folder):
                raise DamagedError(f"it holds step {manifest['step']}")
            sealed.verify(folder, manifest)
        except DamagedError as damage:
            if _is_older(folder):
                raise UserError(
                    f"{folder}: found format 1 of an older editkit, whose numbers differ; start a new run"
                ) from None
            print(f"{folder}: damaged ({damage}), the one before it is used", file=sys.stderr)
            continue
        return folder, manifest
    raise UserError(f"{run}: found no whole checkpoint to resume from; start a new run without --resume")


def read_checkpoint(folder: Path, place: Place | None = None) -> dict[str, Any]:
    """The state in a checkpoint, without a look at its hashes.

    Args:
        folder: the checkpoint.
        place: where the tensors go; it may answer with a tensor of the model, which is then overwritten.
    """
    tensors: dict[str, torch.Tensor] = {}
    state: dict[str, Any] = {}

    def prepare() -> None:
        known = stored_tensors(folder)

        def allocate(path: tuple[str, ...], key: str, strides: Sequence[int] | None) -> torch.Tensor:
            shape, dtype = known[key].size, known[key].properties.dtype
            found = place(path, shape, dtype) if place else None
            if found is None:
                found = torch.empty_strided(shape, strides, dtype=dtype) if strides else torch.empty(shape, dtype=dtype)
            tensors[key] = found
            return found

        state.update(unpack(json.loads((folder / FACTS).read_text(encoding="utf-8")), (), allocate))

    together(prepare)
    read_tensors(folder, tensors)
    return state


def _prune(run: Path, step: int, keep: Keep) -> None:
    """Deletes what need not stay: `step` is the newest whole one and stays, so that later ones are damaged leftovers."""
    manifests: dict[Path, Mapping[str, Any]] = {}
    for folder in list_checkpoints(run):
        if _step_of(folder) <= step:
            try:
                manifests[folder] = sealed.read_manifest(folder)
            except DamagedError:
                continue
    kept = set(list(manifests)[-keep.last :])
    name, sign = keep.metric.removeprefix("-"), -1 if keep.metric.startswith("-") else 1
    figures = {folder: manifest.get("metrics", {}).get(name, math.nan) for folder, manifest in manifests.items()}
    measured = [f for f in manifests if not math.isnan(figures[f])]
    kept |= set(sorted(measured, key=lambda f: (sign * figures[f], _step_of(f)), reverse=True)[: keep.best])
    for folder in list_checkpoints(run):
        if folder not in kept:
            sealed.discard(folder)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _is_older(folder: Path) -> bool:
    """Whether a manifest without a valid seal is one of format 1, which had none."""
    try:
        found = json.loads((folder / sealed.MANIFEST).read_bytes())
        return found["format"] == 1 and "seal" not in found
    except (OSError, ValueError, KeyError, TypeError):
        return False
