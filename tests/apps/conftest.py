"""A page served once for all tests of it, around a tiny random editor of the real classes."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from editkit.models.editor import StableDiffusionEditor, load_editor
from tests.tiny import picture

SIDE = 32  # px, of the tiny editor
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
WAIT_MS = 30_000


class Watched:
    """An editor that counts how many edits were finished, and how many ran at once."""

    def __init__(self, editor: StableDiffusionEditor) -> None:
        self.name, self.defaults, self.describe = editor.name, editor.defaults, editor.describe
        self.finished = self.most_at_once = self._running = 0
        self._editor, self._lock = editor, threading.Lock()

    def edit(self, *arguments: Any, **settings: Any) -> list[Image.Image]:
        with self._lock:
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        try:
            return self._editor.edit(*arguments, **settings)
        finally:
            with self._lock:
                self._running -= 1
                self.finished += 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def editor(tiny_editor: Path) -> Watched:
    loaded = load_editor(str(tiny_editor))
    loaded.defaults["steps"] = 4
    return Watched(loaded)


@pytest.fixture(scope="session")
def address(editor: Watched) -> Iterator[str]:
    """Where the page is served, with two examples."""
    from apps.edit import build_demo
    from apps.page import serve
    from editkit.lab.avatar_edits import sample_edits

    page = build_demo(editor, examples=sample_edits(2, seed=1, size=SIDE))
    yield serve(page, "127.0.0.1", free_port(), block=False)
    page.close()


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that is not square, with a corner of another colour."""
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    picture("red", (48, 40)).save(path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("found no Chromium; the page is tested through its API only")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started.new_context(viewport={"width": 1200, "height": 1000})
        started.close()
