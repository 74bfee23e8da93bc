"""A folder that is whole or not there: staged, hashed, sealed by a manifest, put in place by one rename.

X.staging    being written; whoever finds one that nobody writes to may delete it
X            whole, as long as `verify` agrees
X.replaced   the X before a newer X; put back when the process died between the two renames
X.doomed     being deleted; it never looks whole, whatever is left of it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from editkit.files import flush, write_whole

MANIFEST = "manifest.json"
STAGING, REPLACED, DOOMED = ".staging", ".replaced", ".doomed"
THREADS = 8


class DamagedError(Exception):
    """A sealed folder is not what was sealed; the message says what is wrong with it."""


def staging_of(folder: Path) -> Path:
    """Where `folder` is written before it is whole."""
    return folder.with_name(folder.name + STAGING)


def settle(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Flushes files to the disk and hashes them meanwhile.

    Returns:
        File name -> {"sha256", "size" in bytes}.
    """
    files = list(files)
    with ThreadPoolExecutor(THREADS) as pool:  # both let go of the interpreter's lock, and one waits while the other computes
        flushed = [pool.submit(flush, path) for path in files]
        hashed = {path: pool.submit(_sha256, path) for path in files}
        for task in flushed:
            task.result()
        return {path.name: {"sha256": task.result(), "size": path.stat().st_size} for path, task in hashed.items()}


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest with a seal over what it says; one rename, so that the one before stays whole until then.

    Args:
        folder: where the files lie that `manifest["files"]` lists, as `settle` returns them.
        manifest: what can be written as JSON.
    """
    write_whole(folder / MANIFEST, json.dumps({**manifest, "seal": _seal(manifest)}, indent=1))
    flush(folder)


def put_in_place(folder: Path) -> None:
    """Renames the staged folder to `folder`; one that lies there already goes only afterwards."""
    replaced = folder.with_name(folder.name + REPLACED)
    if folder.exists():
        os.replace(folder, replaced)
    os.replace(staging_of(folder), folder)
    flush(folder.parent)
    if replaced.exists():
        discard(replaced)


def discard(folder: Path) -> None:
    """Deletes a folder; killed on the way, it leaves nothing that looks whole."""
    doomed = folder.with_name(folder.name + DOOMED)
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def clean(parent: Path) -> None:
    """Ends what a killed process left undone among the folders in `parent`; nobody else may be writing there."""
    for path in parent.glob("*" + REPLACED):
        folder = path.with_name(path.name.removesuffix(REPLACED))
        if folder.exists():
            discard(path)
        else:
            os.replace(path, folder)
    for ending in (STAGING, DOOMED):
        for path in parent.glob("*" + ending):
            shutil.rmtree(path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest says.

    Raises:
        DamagedError: there is none, or it is not what was written.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise DamagedError(f"{MANIFEST} is missing") from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.pop("seal", None) != _seal(manifest):
        raise DamagedError(f"{MANIFEST} has been changed")
    return manifest


def verify(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compares every file of a sealed folder with its manifest.

    Raises:
        DamagedError: a file is missing, has another size or another content.
    """
    files: Mapping[str, Mapping[str, Any]] = manifest["files"]
    for name, facts in files.items():
        if not (folder / name).is_file():
            raise DamagedError(f"{name} is missing")
        size = (folder / name).stat().st_size
        if size != facts["size"]:
            raise DamagedError(f"{name} has {size:,} bytes, expected {facts['size']:,}")
    with ThreadPoolExecutor(THREADS) as pool:
        hashed = dict(zip(files, pool.map(_readable(_sha256), [folder / name for name in files]), strict=True))
    for name, facts in files.items():
        if hashed[name] != facts["sha256"]:
            raise DamagedError(f"the content of {name} has changed")


def _readable(action: Callable[[Path], str]) -> Callable[[Path], str]:
    """The action with a disk's own errors as damage."""

    def guarded(path: Path) -> str:
        try:
            return action(path)
        except OSError as error:
            raise DamagedError(f"{path.name} cannot be read: {error.strerror}") from error

    return guarded


def _seal(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
