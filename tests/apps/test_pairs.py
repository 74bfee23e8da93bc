"""The page of pairs, as a person uses it in a real browser, and through its functions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from apps import launch
from apps.page import serve
from apps.pairs import AMPLIFIED, BY_ORDER, EVERYTHING, Table, build_page, newest, open_table
from editkit.build import build
from editkit.data.browse import ALL
from editkit.data.decisions import Decisions, log_of
from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.train.check import check
from tests.apps.conftest import WAIT_MS, free_port
from tests.tiny import avatars_spec

SPEC = avatars_spec(12, 4, 32)


@pytest.fixture
def spec(workplace: Path) -> str:
    Path("small.toml").write_text(SPEC)
    build("small.toml")
    return "small.toml"


@pytest.fixture
def table(spec: str) -> Table:
    return open_table(spec)[0]


def chosen(
    table: Table, split: str = "train", category: str = ALL, state: str = ALL, finding: str = EVERYTHING
) -> tuple[Any, ...]:
    return table.choose(split, category, finding, state, BY_ORDER)


def pixels(image: Any) -> np.ndarray:
    return np.asarray((image if isinstance(image, Image.Image) else Image.open(image)).convert("RGB")).astype(int)


def test_a_pair_is_shown_with_what_differs_and_its_mask(table: Table) -> None:
    both, difference, mask, words, facts, place, seen = chosen(table)
    pair = open_dataset("data/small", "train")[0]
    source, target = pixels(pair.source.open()), pixels(pair.target.open())
    assert np.array_equal(pixels(both[0]), source)
    assert np.array_equal(pixels(both[1]), target)
    assert np.array_equal(pixels(difference), np.minimum(255, AMPLIFIED * np.abs(source - target)))
    assert np.array_equal(pixels(mask), pixels(pair.mask.open()))
    assert words == pair.instructions[0]
    assert "undecided" in facts
    assert pair.category in facts
    assert place == "**1** of 12 chosen · nothing decided yet"
    assert seen.at == 0


def test_decisions_go_to_the_log_and_on_to_the_next(table: Table) -> None:
    seen = chosen(table)[-1]
    keys = [table.shelves["train"].dataset[i].key for i in range(4)]
    seen = table.decide(seen, "rejected")[-1]
    seen = table.decide(seen, "accepted")[-1]
    *_, words, facts, place, seen = table.rewrite(seen, "  make\n it  red ")
    assert (words, seen.at) == ("make it red", 2)
    assert "instruction rewritten" in facts
    assert place == "**3** of 12 chosen · 2 accepted, 1 rejected, 1 rewritten"
    seen = table.decide(seen, "accepted")[-1]  # keeps the words
    seen = table.decide(seen, "rejected")[-1]
    log = Decisions(log_of("data/small"))
    said = {k: (log.of("train", k).verdict, log.of("train", k).instruction) for k in keys}
    assert list(said.values()) == [("rejected", ""), ("accepted", ""), ("accepted", "make it red"), ("rejected", "")]
    table.undo(table.step(seen, -1)[-1])
    assert log_of("data/small").read_text().count("\n") == 6
    assert Decisions(log_of("data/small")).of("train", keys[3]).verdict == "open"
    assert len(chosen(table, state="undecided")[-1].numbers) == 9
    assert chosen(table, "test")[-1].split == "test"


def test_a_rewrite_into_the_same_words_is_none(table: Table) -> None:
    *_, words, _, _, seen = chosen(table)
    table.rewrite(seen, words)
    assert table.decisions.counts() == {"accepted": 1, "rewritten": 0}


def test_the_place_stays_inside(table: Table) -> None:
    seen = chosen(table)[-1]
    assert table.step(seen, -1)[-1].at == 0
    assert table.step(table.go_to(seen, "12")[-1], 1)[-1].at == 11


def test_what_cannot_be_done_is_said(table: Table) -> None:
    seen = chosen(table)[-1]
    for action in (
        lambda: table.go_to(seen, "nobody"),
        lambda: table.rewrite(seen, " "),
        lambda: table.rewrite(seen, "x" * 601),
    ):
        with pytest.raises(gr.Error, match="Found"):
            action()
    nothing = chosen(table, state="rejected")
    assert nothing[4] == "No example of this kind."
    with pytest.raises(gr.Error, match="No example"):
        table.decide(nothing[-1], "accepted")
    assert not table.decisions.path.exists()


def test_findings_of_the_last_check_are_shown_and_chosen(spec: str) -> None:
    check(spec)
    assert "The last check" in open_table(spec)[1]
    path = Path("runs/check-small.findings.jsonl")
    key = open_dataset("data/small", "train")[5].key
    entry = {"kind": "shift", "key": key, "why": "moved <b>by</b> 2 px", "index": 5, "split": "train", "severity": "error"}
    head = path.read_text().splitlines()[0]
    path.write_text(head + "\n" + json.dumps({**entry, "category": "", "figures": {}}) + "\n")
    table, said = open_table(spec)
    assert said == "The last check found something in 1 of train."
    *_, facts, _, seen = chosen(table, finding="shift")
    assert seen.numbers.tolist() == [5]
    assert "**shift**: moved &lt;b&gt;by&lt;/b&gt; 2 px" in facts


def test_what_has_no_pairs_is_one_line(workplace: Path) -> None:
    with pytest.raises(UserError, match="found no data set in data/"):
        newest()
    Path("captions.toml").write_text(SPEC.replace("edit_pairs", "captioned_images"))
    with pytest.raises(UserError, match="found captioned_images; the page shows edit_pairs"):
        launch("pairs", "captions.toml", "127.0.0.1", 0)
    with pytest.raises(UserError, match="expected one of edit, pairs, plan_refine"):
        launch("pears", None, "127.0.0.1", 0)


@pytest.fixture
def page(browser: Any, table: Table) -> Iterator[Any]:
    built = build_page(table, "Nothing was checked.")
    address = serve(built, "127.0.0.1", free_port(), block=False)
    opened = browser.new_page()
    opened.set_default_timeout(WAIT_MS)
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(address)
    opened.get_by_text("1 of 12 chosen").wait_for()
    yield opened
    opened.close()
    built.close()
    assert not errors


@pytest.mark.browser
def test_a_person_decides_with_the_keyboard(page: Any, table: Table) -> None:
    keys = [table.shelves["train"].dataset[i].key for i in range(3)]
    page.locator("#result img").first.wait_for()
    page.keyboard.press("r")
    page.get_by_text("2 of 12 chosen · 1 rejected").wait_for()
    page.keyboard.press("a")
    page.get_by_text("3 of 12 chosen · 1 accepted, 1 rejected").wait_for()
    page.keyboard.press("e")
    page.locator("#instruction textarea:focus").fill("make the hair a deep red")
    page.keyboard.press("Control+Enter")
    page.get_by_text("1 rewritten").wait_for()
    page.keyboard.press("a")  # a letter in the text, not a verdict
    assert "a" in page.locator("#instruction textarea").input_value()
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    page.get_by_text("4 of 12 chosen").wait_for()
    page.keyboard.press("ArrowLeft")
    page.get_by_text("3 of 12 chosen").wait_for()
    page.keyboard.press("u")
    page.get_by_text("3 of 12 chosen · 1 accepted, 1 rejected").wait_for()
    log = Decisions(log_of("data/small"))
    assert [log.of("train", k).verdict for k in keys[:3]] == ["rejected", "accepted", "open"]


@pytest.mark.browser
def test_a_person_chooses_by_category_and_goes_to_a_number(page: Any, table: Table) -> None:
    shelf = table.shelves["train"]
    category = shelf.categories[0]
    count = [shelf.dataset[i].category for i in range(12)].count(category)
    page.locator("#category input").click()
    page.get_by_role("option", name=category, exact=True).click()
    page.get_by_text(f"1 of {count} chosen").wait_for()
    page.locator("#go-to textarea, #go-to input").fill("nobody")
    page.keyboard.press("Enter")
    page.get_by_text('Found "nobody"').wait_for()
    page.locator("#go-to textarea, #go-to input").fill("12")
    page.keyboard.press("Enter")
    page.get_by_text("number 12 of train").wait_for()
