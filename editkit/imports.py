"""Quick imports of large libraries."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def quick_imports() -> Generator[None, None, None]:
    """Around imports of torch and what stands on it: Python does not look for cyclic garbage meanwhile, nor in them later.

    Modules are no garbage, and going through the million objects of theirs again and again takes a fifth of an import's time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
