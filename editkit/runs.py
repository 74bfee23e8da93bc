"""Run folders: where they lie and how they are named."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from editkit.errors import UserError, did_you_mean
from editkit.files import make_folder

RUNS = Path("runs")


def new_run_folder(name: str) -> Path:
    """Makes `runs/<name>-<time>/`; a second run in the same second gets a number."""
    base = RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder, number = base, 2
    while folder.exists():
        folder = base.with_name(f"{base.name}-{number}")
        number += 1
    make_folder(folder, new=True)
    return folder


def hold_run(folder: Path) -> AbstractContextManager[None]:
    """The run for this process alone while the block runs.

    Raises:
        UserError: another process trains it.
    """
    return hold(folder / ".lock", f"{folder}: another process is training this run; wait for it, or stop it first")


@contextlib.contextmanager
def hold(lock_file: Path, busy: str, patience_s: float = 0.0) -> Generator[None, None, None]:
    """Lets one process at a time into the block; the system lets go of the lock when the process dies.

    Args:
        lock_file: stays where it is.
        busy: what is said when another process has it.
        patience_s: how long to wait for it.

    Raises:
        UserError: `busy`.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        raise UserError(busy) from None
    try:
        yield
    finally:
        lock.release()


def find_run(name: str) -> Path:
    """The folder of a run.

    Args:
        name: a path, the name of a folder under `runs/`, or "latest".

    Raises:
        UserError: there is none, with the nearest name.
    """
    runs = sorted((p.parent for p in RUNS.glob("*/run.json")), key=_started)
    if name == "latest":
        if not runs:
            raise UserError(
                f'found no run in {RUNS.resolve().name}/; train one first, such as "editkit train recipes/instructpix2pix.toml"'
            )
        return runs[-1]
    for folder in (Path(name), RUNS / name):
        if (folder / "run.json").is_file():
            return folder
    if Path(name).is_dir():
        raise UserError(f"{name}: found no run.json in it; expected a folder that editkit train wrote")
    hint = did_you_mean(name, [r.name for r in runs], "expected a run folder or latest")
    raise UserError(f'found no run "{name}"; {hint}')


def _started(run: Path) -> str:
    return json.loads((run / "run.json").read_text(encoding="utf-8")).get("started", "")
