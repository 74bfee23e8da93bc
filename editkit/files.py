"""Files that are whole or not there, whenever the process or the machine stops; and folders to put them in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from editkit.errors import UserError


@contextlib.contextmanager
def whole_file(path: Path, *, shared: bool = False) -> Generator[Path, None, None]:
    """A name to write to, which becomes `path` when the block ends well; until then, what lay at `path` lies there.

    Args:
        path: in a folder that is there.
        shared: several processes may write the file at once. Each then has a name of its own; else what a killed process
            left is written over by the next one.
    """
    half = path.with_name(f"{path.name}.{os.getpid()}.half" if shared else f"{path.name}.half")
    try:
        yield half
        flush(half)
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: str | bytes, *, shared: bool = False) -> None:
    """Writes a `whole_file` at once; a text in UTF-8."""
    with whole_file(path, shared=shared) as half:
        half.write_bytes(content.encode() if isinstance(content, str) else content)


def flush(path: Path) -> None:
    """Waits until a file, or what a folder lists, is on the disk."""
    if path.is_dir() and os.name != "posix":
        return  # other systems cannot open a folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path, *, new: bool = False) -> None:
    """Makes a folder, and those above it, where they are missing.

    Args:
        path: the folder.
        new: nothing may be there yet.

    Raises:
        UserError: it cannot be made: a file or a link to nothing is in its way, or it may not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=not new)
    except OSError as error:
        at = next((p for p in (*reversed(path.parents), path) if os.path.lexists(p) and not p.is_dir()), path)
        found = "a link to nothing" if at.is_symlink() and not at.exists() else (error.strerror or str(error)).lower()
        raise UserError(
            f"{path}: this folder cannot be made ({at}: {found}); move that away, or work in another folder"
        ) from error
