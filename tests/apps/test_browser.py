"""The editing page as a person uses it: a real browser, a real (tiny, random) model."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.apps.conftest import SIDE, WAIT_MS, Watched

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A new visit; fails when the page asked another host or its scripts broke."""
    opened = browser.new_page()
    opened.set_default_timeout(WAIT_MS)
    asked: set[str] = set()
    errors: list[str] = []
    opened.on("request", lambda r: asked.add(httpx.URL(r.url).netloc.decode()) if r.url.startswith("http") else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(address)
    opened.locator("#picture img").wait_for()
    yield opened
    opened.close()
    assert asked == {httpx.URL(address).netloc.decode()}
    assert not errors


def source_of(page: Any, place: str, number: int = 0) -> str:
    return page.locator(f"{place} img").nth(number).get_attribute("src")


def pixels(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(httpx.get(url).content)).convert("RGB"))


def edit(page: Any, number: int) -> None:
    """Presses Edit, and waits until the history holds `number` edits."""
    page.locator("#run").click()
    page.wait_for_function(f"document.querySelectorAll('#history img').length == {number}")
    page.locator("#download:not([disabled])").wait_for()


def downloaded(page: Any, place: str) -> bytes:
    with page.expect_download() as download:
        page.locator(place).click()
    return Path(download.value.path()).read_bytes()


def seed(page: Any) -> str:
    return page.locator("#seed input").input_value()


def test_a_person_uploads_edits_and_goes_on(page: Any, source: Path, editor: Watched) -> None:
    page.locator("#picture input[type=file]").set_input_files(source)
    page.locator("#picture img[src$='/red.png']").wait_for()
    page.wait_for_function(f"document.querySelector('#picture img').naturalHeight == {SIDE}")  # as the model sees it
    page.locator("#instruction textarea").fill("make the hair red")
    assert page.locator("#history").count() == 0
    edit(page, 1)

    before, after = (pixels(source_of(page, "#result", i)) for i in (0, 1))
    assert np.array_equal(before, pixels(source_of(page, "#picture")))
    expected = editor.edit([Image.fromarray(before)], ["make the hair red"], seed=0)[0]
    assert np.array_equal(after, np.asarray(expected))
    assert not np.array_equal(before, after)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(downloaded(page, "#download")))), after)

    page.get_by_text("New seed").click()
    page.wait_for_function("document.querySelector('#seed input').value != '0'")
    second = seed(page)
    edit(page, 2)
    assert f"seed\N{NO-BREAK SPACE}{second}" in page.locator("#line").inner_text()
    assert [t.split("\n")[0] for t in page.locator("#history .caption-label").all_inner_texts()] == ["make the hair red"] * 2

    page.locator("#instruction textarea").fill("something else")
    page.locator("#history button.thumbnail-item").nth(1).click()
    page.wait_for_function("document.querySelector('#seed input').value == '0'")
    assert page.locator("#instruction textarea").input_value() == "make the hair red"
    assert np.array_equal(pixels(source_of(page, "#result", 1)), after)

    page.locator("#go-on").click()
    page.wait_for_function("old => document.querySelector('#picture img').src != old", arg=source_of(page, "#result", 0))
    page.wait_for_function("document.querySelector('#picture img').src.includes('make-the-hair-red')")
    assert np.array_equal(pixels(source_of(page, "#picture")), after)

    with zipfile.ZipFile(io.BytesIO(downloaded(page, "#archive"))) as archive:
        settings = json.loads(archive.read("settings.json"))
        assert [s["seed"] for s in settings] == [0, int(second)]
        assert np.array_equal(np.asarray(Image.open(archive.open(settings[0]["result"]))), after)


def test_small_pictures_are_shown_large_and_crisp(page: Any) -> None:
    edit(page, 1)
    for place in ("#picture img", "#result img", "#history img", "#examples img"):
        shown = page.locator(place).first
        assert shown.evaluate("e => getComputedStyle(e).imageRendering") == "pixelated", place
    for place in ("#picture img", "#result img"):
        assert page.locator(place).first.bounding_box()["width"] > 250, place
        assert page.locator(place).first.evaluate("e => getComputedStyle(e).objectFit") == "contain", place  # fills that box
        assert page.locator(place).first.evaluate("e => e.naturalWidth") == SIDE, place


def test_examples_fill_in_the_picture_and_the_words(page: Any) -> None:
    first, words = source_of(page, "#picture"), page.locator("#instruction textarea").input_value()
    page.locator("#examples .gallery-item").nth(1).click()
    page.wait_for_function("old => document.querySelector('#picture img').src != old", arg=first)
    chips = page.locator("#instructions .gallery-item").all_inner_texts()
    assert len(chips) == 2
    assert words != page.locator("#instruction textarea").input_value()
    page.locator("#instructions .gallery-item").nth(0).click()
    page.wait_for_function("old => document.querySelector('#instruction textarea').value == old", arg=words)


def test_steps_are_counted_while_it_edits(page: Any) -> None:
    page.locator("#steps input[type=number]").fill("50")
    page.locator("#steps input[type=number]").blur()
    page.locator("#run").click()
    page.locator("#result").get_by_text("/50 steps").wait_for()
    page.wait_for_function("document.querySelectorAll('#history img').length == 1")


def test_enter_edits_too(page: Any) -> None:
    page.locator("#instruction textarea").press("Enter")
    page.wait_for_function("document.querySelectorAll('#history img').length == 1")


def test_a_bad_file_gets_a_message_and_is_not_kept(page: Any, tmp_path: Path) -> None:
    bad = tmp_path / "notes.png"
    bad.write_text("these are notes")
    page.locator("#picture input[type=file]").set_input_files(bad)
    page.get_by_text("notes.png: is not an image that can be read").wait_for()
    page.wait_for_function("!document.querySelector('#picture img')")
    page.locator("#run").click()
    page.get_by_text("Choose a picture first").wait_for()
    assert "Traceback" not in page.content()


def test_a_file_that_is_too_big_gets_a_message(page: Any, tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    big.write_bytes(b"\0" * (11 << 20))
    page.locator("#picture input[type=file]").set_input_files(big)
    page.get_by_text("exceed the maximum allowed size of 10.0 Mb").wait_for()


def test_an_empty_instruction_gets_a_message(page: Any) -> None:
    page.locator("#instruction textarea").fill("   ")
    page.locator("#run").click()
    page.get_by_text("Say what to do").wait_for()
    assert page.locator("#history").count() == 0
    assert page.locator("#download").is_disabled()
    assert page.locator("#result .error").is_hidden()  # the last result stays in sight


def test_the_grid_is_drawn(page: Any) -> None:
    page.locator("#grid-box button").first.click()
    page.locator("#draw-grid").click()
    page.locator("#grid img").wait_for()
    assert page.locator("#grid img").evaluate("e => e.naturalWidth") > 4 * 192


def test_a_phone_needs_no_sideways_scrolling(page: Any) -> None:
    page.set_viewport_size({"width": 400, "height": 900})
    edit(page, 1)
    page.locator("#grid-box button").first.click()
    page.locator("#draw-grid").click()
    page.locator("#grid img").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 400
