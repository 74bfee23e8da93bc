"""The page of plan, sketch, inspect, refine as a person uses it: a real browser, a real (tiny, briefly trained) model."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import numpy as np
import pytest
from PIL import Image

from apps import launch
from apps.course import Course
from apps.page import latest_run, serve
from apps.plan_refine import Desk, build_page
from apps.strip import Making, strip
from editkit.errors import UserError
from editkit.evaluate.generate_file import generate_file
from editkit.models.generator import BagelGenerator, Drawn, Said, load_planner
from tests.apps.conftest import SIDE, WAIT_MS, free_port
from tests.planners import LEARNED, SAMPLING, run_of
from tests.tiny import tiny_bagel_parts

SETTINGS = [5, *SAMPLING.values()]
PLAN, WRONG = "<ins>draw a star</ins><des>a star</des>", "The image is wrong: it is red. <refine>make it blue</refine>"


@pytest.fixture(scope="module")
def planner(by_heart: Path) -> BagelGenerator:
    return load_planner(str(by_heart))


@pytest.fixture
def desk(planner: BagelGenerator) -> Desk:
    return Desk(planner, "by-heart")


@pytest.fixture(scope="module")
def place(planner: BagelGenerator) -> Iterator[str]:
    page = build_page(planner, "by-heart")
    yield serve(page, "127.0.0.1", free_port(), block=False)
    page.close()


@pytest.fixture
def visit(browser: Any, place: str) -> Iterator[Any]:
    yield from visited(browser, place)


def visited(browser: Any, address: str) -> Iterator[Any]:
    """A new visit; fails when the page asked another host or its scripts broke."""
    page = browser.new_page()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.set_default_timeout(WAIT_MS)
    asked: set[str] = set()
    errors: list[str] = []
    page.on("request", lambda r: asked.add(httpx.URL(r.url).netloc.decode()) if r.url.startswith("http") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.locator("#prompt textarea").wait_for()
    yield page
    assert "Traceback" not in page.content()
    page.close()
    assert asked == {httpx.URL(address).netloc.decode()}
    assert not errors


def choose(page: Any, **settings: int) -> None:
    """Opens the settings and fills them in; fields that have just come up may take their defaults a moment later."""
    page.locator("#settings button").first.click()
    for name, value in settings.items():
        box = page.locator(f"#{name} input[type=number], #{name} input").first
        while box.input_value() != str(value):
            box.fill(str(value))
            box.blur()
            page.evaluate("new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


def draw(page: Any, prompt: str = LEARNED.prompt) -> None:
    page.locator("#prompt textarea").fill(prompt)
    page.locator("#draw").click()


def choose_step(page: Any, step: int) -> None:
    """Chooses another step by its radio button, and waits until the fields hold its words."""
    page.locator("#ins textarea").fill("to be replaced")
    page.locator("#step label").nth(step).click()
    page.wait_for_function("document.querySelector('#ins textarea').value != 'to be replaced'")


def settled(page: Any, cards: int, by_hand: int = 0) -> str:
    """Waits until so many cards, with so many texts by hand, stand still; the line above them."""
    page.wait_for_function(
        "([cards, hands]) => document.querySelectorAll('.card').length == cards"
        " && document.querySelectorAll('.card .by-hand').length == hands && !document.querySelector('#draw').disabled"
        " && document.querySelector('#hand')?.checkVisibility()",
        arg=[cards, by_hand],
    )
    return page.locator("#line").inner_text()


def still(page: Any) -> None:
    """Waits until nothing is drawn."""
    page.wait_for_function("!document.querySelector('#draw').disabled && document.querySelector('#hand')?.checkVisibility()")


def pixels(page: Any, card: int) -> np.ndarray:
    url = page.locator(".card").nth(card).locator("img").evaluate("e => e.src")
    return np.asarray(Image.open(io.BytesIO(httpx.get(url).content)))


def drawn_by(planner: BagelGenerator, steps: int = SAMPLING["steps"]) -> list[np.ndarray]:
    events = planner.steps(LEARNED.prompt, **{**SAMPLING, "steps": steps}, seed=5)
    return [np.asarray(event.picture) for event in events if isinstance(event, Drawn)]


def words(page: Any, card: int) -> list[str]:
    return page.locator(".card").nth(card).inner_text().split("\n")


@pytest.mark.browser
def test_a_person_sees_every_step_and_takes_the_trace_home(
    visit: Any, planner: BagelGenerator, by_heart: Path, workplace: Path
) -> None:
    choose(visit, seed=5)
    draw(visit)
    assert settled(visit, 2).startswith("The model is done · 2 pictures · ")
    first, second = ([line for line in words(visit, card) if line.strip()] for card in (0, 1))
    assert first == [
        "Step 1", "draw a blue star", "a blue star", "✗ the image is wrong", "the star is red, not blue",
        "→ make the star blue",
    ]  # fmt: skip
    assert second == ["Step 2", "refined", "final", "make the star blue", "a blue star", "✓ the image is right"]
    for card, expected in enumerate(drawn_by(planner)):
        assert np.array_equal(pixels(visit, card), expected)
    picture = visit.locator(".card img").first
    assert picture.evaluate("e => [e.naturalWidth, getComputedStyle(e).imageRendering]") == [SIDE, "pixelated"]
    assert picture.bounding_box()["width"] > 150

    with visit.expect_download() as download:
        visit.locator("#archive").click()
    expected = generate_file(LEARNED.prompt, str(by_heart), "a-blue-star", plan=True, seed=5)
    with zipfile.ZipFile(Path(download.value.path())) as archive:
        folder = Path(expected["folder"])
        files = {str(p.relative_to(folder.parent)) for p in folder.rglob("*") if p.is_file()}
        assert {name for name in archive.namelist() if not name.endswith("/")} == files
        ours, theirs = (
            json.loads(text) for text in (archive.read("a-blue-star/traces.jsonl"), (folder / "traces.jsonl").read_text())
        )
        about = [json.loads(trace.pop("provenance")) for trace in (ours, theirs)]
        assert ours == theirs
        assert about[0] == about[1] | {"run": "by-heart"}
        for name in ("picture.png", "filmstrip.png"):
            assert archive.read(f"a-blue-star/{name}") == (folder / name).read_bytes()


@pytest.mark.browser
def test_a_person_stops_it_and_goes_on(visit: Any, planner: BagelGenerator) -> None:
    choose(visit, seed=5, steps=50)
    draw(visit)
    visit.get_by_text("steps/s").wait_for()
    assert visit.locator(".going").inner_text() == "drawing…"
    assert visit.locator("#draw").is_disabled()
    visit.locator("#stop").click()
    line = settled(visit, 1)
    assert line.startswith("Ended: stopped by hand · 1 picture · ")
    assert visit.locator(".final").count() == 0
    kept = pixels(visit, 0)
    visit.locator("#go-on").click()
    assert settled(visit, 2).startswith("The model is done")
    assert np.array_equal(pixels(visit, 0), kept)
    for card, expected in enumerate(drawn_by(planner, 50)):
        assert np.abs(pixels(visit, card).astype(int) - expected).max() <= 1
    assert visit.locator("#go-on").is_hidden()


@pytest.mark.browser
def test_a_person_edits_a_plan_overrules_verdicts_and_remarks(visit: Any) -> None:
    choose(visit, seed=5)
    draw(visit)
    settled(visit, 2)
    before = [pixels(visit, card) for card in (0, 1)]
    choose_step(visit, 0)
    choose_step(visit, 1)
    assert visit.locator("#ins textarea").input_value() == "make the star blue"
    visit.locator("#ins textarea").fill("make the star red")
    visit.locator("#replan").click()
    settled(visit, 2, by_hand=1)
    assert "make the star red by hand" in words(visit, 1)
    assert np.array_equal(pixels(visit, 0), before[0])
    assert not np.array_equal(pixels(visit, 1), before[1])

    visit.get_by_role("tab", name="Overrule").click()
    visit.locator("#issue textarea").fill("it is small")
    visit.locator("#refine textarea").fill("make the star blue")
    visit.locator("#wrong").click()
    visit.get_by_text("it is small").wait_for()
    still(visit)
    assert visit.locator(".by-hand").count() == 2
    assert visit.locator(".card").count() > 2

    visit.locator("#step label").first.click()
    visit.wait_for_function("document.querySelector('#issue textarea').value == 'the star is red, not blue'")
    visit.locator("#right").click()
    visit.locator(".card").first.get_by_text("✓ the image is right by hand").wait_for()
    still(visit)
    assert visit.locator(".by-hand").count() == 1  # what came behind is gone
    assert np.array_equal(pixels(visit, 0), before[0])
    visit.locator("#step label").first.click()
    visit.wait_for_function("document.querySelector('#issue textarea').value == ''")
    visit.locator("#right").click()
    visit.get_by_text("the verdict says already that it is right").wait_for()

    visit.get_by_role("tab", name="Remark").click()
    visit.locator("#remark").click()
    visit.get_by_text("The remark is empty").wait_for()
    visit.locator("#note textarea").fill("make the star blue")
    visit.locator("#remark").click()
    visit.get_by_text("not as asked").wait_for()
    still(visit)
    assert visit.locator(".card").count() > 1
    assert visit.locator("#note textarea").input_value() == ""


@pytest.mark.browser
def test_a_phone_needs_no_sideways_scrolling(visit: Any) -> None:
    visit.set_viewport_size({"width": 400, "height": 900})
    draw(visit)
    settled(visit, 2)
    assert visit.evaluate("document.documentElement.scrollWidth") == 400
    assert visit.locator(".card img").first.bounding_box()["width"] > 250
    for name in ("Edit plan", "Overrule", "Remark"):
        assert visit.get_by_role("tab", name=name).is_visible()


@pytest.mark.browser
def test_what_a_model_writes_that_is_no_plan_is_one_line(browser: Any, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", "plan_refine", tiny_bagel_parts(seed=6), max_text=6, max_pictures=2)
    page = build_page(load_planner(str(run)), "garbled")
    address = serve(page, "127.0.0.1", free_port(), block=False)
    for visit in visited(browser, address):
        visit.locator("#draw").click()
        visit.get_by_text("The prompt is empty").wait_for()
        draw(visit, "a red star")
        visit.get_by_text("not all is a trace").wait_for()
        still(visit)
        assert visit.get_by_text("cannot be read as a plan or a verdict").count() >= 1
        assert visit.get_by_text("as many pictures as it may have").is_visible()
        assert visit.locator("#go-on").is_hidden()
        choose_step(visit, 0)
        visit.locator("#ins textarea").fill("draw a star")
        visit.locator("#des textarea").fill("a star</des>")
        visit.locator("#replan").click()
        visit.get_by_text("found </des> inside des").wait_for()
        visit.locator("#des textarea").fill("a star")
        visit.locator("#replan").click()
        visit.locator(".card").first.get_by_text("draw a star by hand").wait_for()
        still(visit)
    page.close()


def test_each_time_that_it_was_asked_is_on_record(desk: Desk) -> None:
    course = Course()
    list(desk.draw(course, LEARNED.prompt, *SETTINGS))
    list(desk.remark(course, "make the star blue", 6, *SAMPLING.values()))
    assert [(s["from"], s["seed"]) for s in course.sampling] == [(1, 5), (7, 6)]
    list(desk.replan(course, "2", "make the star red", "a red star", *SETTINGS))
    assert [(s["from"], s["seed"]) for s in course.sampling] == [(1, 5), (5, 5)]
    assert course.archive is not None
    with zipfile.ZipFile(course.archive) as archive:
        about = json.loads(archive.read("a-blue-star/generated.json"))
    assert (about["by_hand"], about["asked"]) == ([4], course.sampling)


def test_a_visitor_who_has_drawn_nothing_is_told_so(desk: Desk) -> None:
    for asked in (
        desk.go_on(Course(), *SETTINGS),
        desk.right(Course(), "1", *SETTINGS),
        desk.draw(Course(), "a", None, 1, 1, 1),
    ):
        with pytest.raises(gr.Error):
            next(asked)
    assert desk.choose(Course(), "1") == ("", "", "", "")


def test_what_a_model_wrote_is_text_and_no_markup() -> None:
    odd, plan = Said("<img src=x onerror=alert(1)>"), Said("<ins><b>a</b></ins><des>b & c</des>", (1,))
    shown = strip("<i>", [odd, plan], ["", ""], done=False)
    assert "&lt;img src=x" in shown
    assert "&lt;b&gt;a&lt;/b&gt;" in shown
    assert "b &amp; c" in shown
    assert "<i>" not in shown
    assert strip("a", [], [], done=True) == ""


@pytest.mark.parametrize(
    ("parts", "making", "cards", "words"),
    [
        ([], Making("text"), 1, "writing…"),
        ([], Making("text", "<ins>draw a st"), 1, "draw a st</p>"),
        ([], Making("text", "<ins>draw</ins><de"), 1, ">draw</p>"),
        ([PLAN], Making("picture"), 1, "drawing…"),
        ([PLAN], Making("text", "The plan is"), 1, "The plan is"),
        ([PLAN, WRONG], Making("text"), 2, "writing…"),
        ([PLAN, WRONG], Making("picture"), 2, "drawing…"),
    ],
)
def test_what_comes_next_has_its_card(parts: list[str], making: Making, cards: int, words: str) -> None:
    shown = strip("a star", [Said(part) for part in parts], [""] * len(parts), done=False, making=making)
    assert shown.count('class="card"') == cards
    assert words in shown


def test_without_a_run_that_plans_it_is_one_line(workplace: Path) -> None:
    with pytest.raises(UserError, match="found no finished run of the method plan_refine in runs/"):
        launch("plan_refine", None, "127.0.0.1", 0)
    with pytest.raises(UserError, match=r"needs a run of recipes/plan_refine\.toml"):
        launch("plan_refine", "lab:tiny-sd", "127.0.0.1", 0)
    for name, started, state in (("a", "2026-01", "done"), ("b", "2026-02", "done"), ("c", "2026-03", "stopped")):
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"method": "plan_refine", "started": started, "state": state}))
    assert latest_run("plan_refine") == "runs/b"
    assert latest_run("instruct_edit") is None
