"""The page as a person uses it: a real browser, a real (tiny, random) model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image, ImageChops

from apps.edit import build_demo, serve
from editkit.lab.avatar_edits import sample_edits
from editkit.models.editor import load_editor
from tests.tiny import picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def address(tiny_editor: Path) -> Iterator[str]:
    page = build_demo(load_editor(str(tiny_editor)), examples=sample_edits(2, seed=1, size=32))
    url = serve(page, "127.0.0.1", _free_port(), block=False)
    yield url
    page.close()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    picture("red", (48, 40)).save(path)
    return path


def asked(path: Path, instruction: str, text: float = 3.0, image: float = 1.5) -> tuple[Any, ...]:
    """The inputs of the page in their order: picture, instruction, both guidances, steps, seed."""
    return handle_file(path), instruction, text, image, 2, 0


def test_client_edits_and_the_picture_changes(address: str, source: Path) -> None:
    client = Client(address, verbose=False)
    result = client.predict(*asked(source, "make the hair red"), api_name="/edit")
    before, after = (Image.open(p).convert("RGB") for p in result[0])
    assert before.size == after.size == (32, 32)
    assert ImageChops.difference(before, after).getbbox() is not None


def test_grid_has_a_cell_for_every_pair_of_guidances(address: str, source: Path) -> None:
    client = Client(address, verbose=False)
    grid = Image.open(client.predict(*asked(source, "add a beard", text=4.0, image=2.0), api_name="/grid"))
    assert grid.width > 4 * 192
    assert grid.height > 3 * 192


def test_a_bad_file_is_refused_with_its_reason(address: str, tmp_path: Path) -> None:
    bad = tmp_path / "notes.png"
    bad.write_bytes(b"these are notes")
    with pytest.raises(Exception, match="is not an image"):
        Client(address, verbose=False).predict(*asked(bad, "add a beard"), api_name="/edit")


def test_an_empty_instruction_is_refused(address: str, source: Path) -> None:
    with pytest.raises(Exception, match="Say what to do"):
        Client(address, verbose=False).predict(*asked(source, "  "), api_name="/edit")


@pytest.mark.parametrize("path", ["/etc/passwd", str(Path(__file__).resolve()), str(Path(gr.__file__).resolve())])
def test_it_serves_no_file_it_did_not_make(address: str, path: str) -> None:
    response = httpx.get(f"{address}gradio_api/file={path}")
    assert response.status_code in (403, 404)


def test_it_listens_on_loopback_only() -> None:
    import inspect

    from apps.edit import launch

    assert inspect.signature(launch).parameters["host"].default == "127.0.0.1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("found no Chromium; the page is tested through gradio_client only")
    from playwright.sync_api import sync_playwright

    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@pytest.mark.browser
def test_a_person_uploads_edits_and_sees_the_change(browser: Any, address: str, source: Path, tmp_path: Path) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.goto(address)
    page.locator("#picture input[type=file]").set_input_files(source)
    page.locator("#picture img").wait_for()
    page.locator("#instruction textarea").fill("make the hair red")
    page.locator("#run").click()
    page.locator("#result img").first.wait_for(timeout=60_000)
    page.locator("#history img").first.wait_for()
    page.get_by_text("seed 0").first.wait_for()
    sources = {page.locator("#result img").nth(i).get_attribute("src") for i in range(2)}
    assert len(sources) == 2
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(tmp_path / "edit.png")
    assert Image.open(tmp_path / "edit.png").size == (32, 32)
    page.close()


@pytest.mark.browser
def test_a_person_sees_why_nothing_happens(browser: Any, address: str, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(address)
    page.locator("#instruction textarea").fill(" ")
    page.locator("#run").click()
    page.get_by_text("Say what to do").first.wait_for(timeout=20_000)
    bad = tmp_path / "notes.png"
    bad.write_bytes(b"these are notes")
    page.locator("#picture input[type=file]").set_input_files(bad)
    page.get_by_text("is not an image").first.wait_for(timeout=20_000)
    page.close()
