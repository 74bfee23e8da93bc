"""Keeps the reading and writing of local weights off the screen."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from transformers.utils import logging


@contextlib.contextmanager
def quiet_files() -> Generator[None, None, None]:
    """No progress bar of transformers for weights that are read or written in milliseconds; downloads keep theirs."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
