"""The editing page through its API: a real server, a real (tiny, random) model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from apps import edit as page_of_edits
from apps.edit import SHIPPED, build_demo, default_editor, varied
from apps.page import serve
from editkit.data.examples import EditPair
from editkit.data.pictures import Picture
from editkit.evaluate.pictures import guidance_grid
from editkit.models.editor import StableDiffusionEditor
from tests.apps.conftest import SIDE, Watched, free_port
from tests.tiny import encoded, picture

INSTRUCTION = "make the hair red"
SETTINGS = {"text_guidance": 3.5, "image_guidance": 1.25, "steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def ask(client: Client, path: Any, instruction: str = INSTRUCTION, endpoint: str = "/edit", **changes: float) -> Any:
    file = handle_file(path) if isinstance(path, Path) else path
    return client.predict(file, instruction, *{**SETTINGS, **changes}.values(), api_name=endpoint)


def pixels(path: str | Path | Image.Image) -> np.ndarray:
    return np.asarray((path if isinstance(path, Image.Image) else Image.open(path)).convert("RGB"))


def test_the_page_edits_as_the_editor_does_with_every_setting(client: Client, source: Path, editor: Watched) -> None:
    (before, after), line, download, *_ = ask(client, source)
    expected = editor.edit([Picture(path=source).open()], [INSTRUCTION], **SETTINGS)[0]
    assert np.array_equal(pixels(after), pixels(expected))
    assert np.array_equal(pixels(download), pixels(expected))
    assert pixels(before).shape == (SIDE, SIDE, 3)
    assert not np.array_equal(pixels(before), pixels(after))
    assert line.replace("\N{NO-BREAK SPACE}", " ").startswith("text 3.5, image 1.25, 2 steps, seed 7, ")


def test_another_seed_gives_another_edit(client: Client, source: Path) -> None:
    assert not np.array_equal(pixels(ask(client, source)[0][1]), pixels(ask(client, source, seed=8)[0][1]))


def test_the_picture_is_shown_upright_and_square_as_the_model_sees_it(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "sideways.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture("red", (48, 40)).save(path, exif=exif, quality=95)
    shown = pixels(ask(client, path)[0][0])
    assert shown.shape == (SIDE, SIDE, 3)
    assert shown[2, -3].max() < 60  # the black corner, turned from the left to the right
    assert shown[2, 2, 0] > 200


def test_the_grid_holds_the_edit_for_every_pair_of_guidances(client: Client, source: Path, editor: Watched) -> None:
    grid = ask(client, source, endpoint="/grid", text_guidance=4.0, image_guidance=2.0)
    image = Picture(path=source).open()
    square = ask(client, source)[0][0]
    rows = [
        [editor.edit([image], [INSTRUCTION], text_guidance=t, image_guidance=i, steps=2, seed=7)[0] for t in (2.0, 4.0, 6.0)]
        for i in (1.5, 2.0, 2.5)
    ]
    expected = guidance_grid(rows, (2.0, 4.0, 6.0), (1.5, 2.0, 2.5), Image.open(square).convert("RGB"), INSTRUCTION, scale=6)
    assert np.array_equal(pixels(grid), pixels(expected))
    assert len({cell.tobytes() for row in rows for cell in row}) == 9


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("notes.png", b"these are notes", "notes.png: is not an image that can be read"),
        ("cut.png", encoded(picture("red", (200, 200)))[:200], "cut.png: is damaged or cut short"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg: is not an image"),
        ("empty.png", b"", "empty.png: is empty"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(client: Client, tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Exception, match=words) as refused:
        ask(client, tmp_path / name)
    assert "Traceback" not in str(refused.value)


@pytest.mark.parametrize("endpoint", ["/edit", "/grid"])
def test_what_is_missing_or_too_much_is_said(client: Client, source: Path, endpoint: str) -> None:
    for words, arguments in {
        "Choose a picture first": {"path": None},
        "Say what to do": {"path": source, "instruction": " \n"},
        "instruction of 301 characters; expected 300": {"path": source, "instruction": "x" * 301},
        "greater than maximum value 50": {"path": source, "steps": 51},
        "less than minimum value 1": {"path": source, "image_guidance": 0},
        "less than minimum value 0": {"path": source, "seed": -1},
    }.items():
        with pytest.raises(Exception, match=words):
            ask(client, endpoint=endpoint, **arguments)


def answer(address: str, file: dict[str, Any]) -> str:
    """What the bare HTTP interface answers to an edit of `file`, without the client's good manners."""
    body = {"data": [{"meta": {"_type": "gradio.FileData"}, **file}, INSTRUCTION, *SETTINGS.values()]}
    event = httpx.post(f"{address}gradio_api/call/edit", json=body).json()["event_id"]
    return httpx.get(f"{address}gradio_api/call/edit/{event}", timeout=60).text


@pytest.mark.parametrize("place", ["/etc/passwd", "/dev/zero", str(Path(__file__).resolve()), "tests/apps/test_edit.py"])
def test_files_that_nobody_uploaded_are_not_read(address: str, place: str, editor: Watched) -> None:
    edits = editor.finished
    assert "event: error" in answer(address, {"path": place})
    assert editor.finished == edits


def test_addresses_are_not_fetched(address: str, editor: Watched) -> None:
    edits = editor.finished
    assert "Found an address; expected a picture file" in answer(address, {"path": "https://example.com/a.png"})
    assert "event: error" in answer(address, {"path": None, "url": f"{address}static/img/logo.svg"})
    assert editor.finished == edits


def test_two_visitors_take_turns_and_get_their_own(address: str, source: Path, editor: Watched) -> None:
    results: dict[int, np.ndarray] = {}

    def visit(seed: int) -> None:
        results[seed] = pixels(ask(Client(address, verbose=False), source, seed=seed, steps=6)[0][1])

    editor.most_at_once = 0
    visitors = [threading.Thread(target=visit, args=(seed,)) for seed in (1, 2, 3)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert editor.most_at_once == 1
    for seed in (1, 2, 3):
        alone = editor.edit([Picture(path=source).open()], [INSTRUCTION], **{**SETTINGS, "steps": 6, "seed": seed})[0]
        assert np.array_equal(results[seed], pixels(alone))


def test_the_sliders_start_at_the_editors_defaults_and_hold_them(editor: StableDiffusionEditor) -> None:
    class Strong:
        name, edit, describe = editor.name, editor.edit, editor.describe
        defaults = {"text_guidance": 15.0, "image_guidance": 4.0, "steps": 100, "resolution": SIDE}

    config = build_demo(Strong()).get_config_file()["components"]
    sliders = {c["props"]["elem_id"]: c["props"] for c in config if c["type"] == "slider"}
    found = {name: (props["value"], props["maximum"]) for name, props in sliders.items()}
    assert found == {"text-guidance": (15.0, 15.0), "image-guidance": (4.0, 4.0), "steps": (100, 100)}


def write_run(name: str, **facts: str) -> None:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"method": "instruct_edit", "state": "done", **facts}))


def test_the_default_is_the_latest_finished_editing_run_or_the_shipped_editor(workplace: Path) -> None:
    assert default_editor()[0] == SHIPPED
    write_run("stopped", started="2026-01-05", state="stopped")
    write_run("reader", started="2026-01-04", method="attribute_reader")
    assert default_editor()[0] == SHIPPED
    write_run("b", started="2026-01-01")
    write_run("a", started="2026-01-02")
    assert default_editor() == (str(Path("runs/a")), "the latest finished editing run")


def test_launch_says_what_it_loaded(tiny_editor: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    served: list[tuple[Any, ...]] = []
    monkeypatch.setattr(page_of_edits, "serve", lambda *a: served.append(a[1:]))
    page_of_edits.launch(str(tiny_editor))
    assert capsys.readouterr().out.startswith(f"loaded {tiny_editor}: ")
    assert served == [("127.0.0.1", 7860)]


def test_examples_are_of_many_kinds_and_all_ask_for_something() -> None:
    def pair(key: int, category: str) -> EditPair:
        return EditPair(str(key), Picture(), Picture(), ("x",), category)

    pairs = [pair(i, c) for i, c in enumerate(["keep", "colour", "colour", "add", "keep", "two", "add"])]
    assert [p.key for p in varied(pairs, 4)] == ["1", "3", "5", "2"]


@pytest.fixture(scope="module")
def shipped() -> Iterator[str]:
    from editkit.lab.avatar_edits import sample_edits
    from editkit.models.editor import load_editor

    page = build_demo(load_editor(SHIPPED), examples=varied(sample_edits(10, seed=3), 3))
    yield serve(page, "127.0.0.1", free_port(), block=False)
    page.close()


def test_the_shipped_editor_changes_what_was_asked_and_little_else(shipped: str, tmp_path: Path) -> None:
    from editkit.lab.avatar_edits import sample_edits

    pair = next(p for p in sample_edits(40, seed=3) if p.category == "background")
    pair.source.open().save(tmp_path / "avatar.png")
    arguments = (handle_file(tmp_path / "avatar.png"), pair.instructions[0], *default_settings(shipped))
    after = pixels(Client(shipped, verbose=False).predict(*arguments, api_name="/edit")[0][1]).astype(float)
    before, target = (pixels(p.open()).astype(float) for p in (pair.source, pair.target))
    assert np.abs(after - target).mean() < 0.5 * np.abs(before - target).mean()


def default_settings(address: str) -> list[float]:
    parameters = httpx.get(f"{address}gradio_api/info").json()["named_endpoints"]["/edit"]["parameters"]
    return [p["parameter_default"] for p in parameters[2:]]
