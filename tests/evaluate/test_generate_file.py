"""`editkit generate`: at once as previews draw, and in steps that are told, saved, and read back as a trace."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from editkit.cli import main
from editkit.data.pictures import Picture
from editkit.data.trace_files import read_traces
from editkit.data.traces import plan_text
from editkit.evaluate.generate_file import print_generated
from editkit.evaluate.plan_folder import readable_trace
from editkit.methods.plan_refine import PlanRefine
from editkit.methods.unified import Unified
from editkit.models.bagel.load import Options as BagelOptions
from editkit.models.bagel.load import load as load_bagel
from editkit.models.bagel.session import Session
from editkit.recipe.schema import Evaluate
from tests.methods.test_unified import recipe
from tests.planners import LEARNED, SAMPLING, TIMES, run_of
from tests.tiny import encoded, picture, tiny_bagel_parts


def generate(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["generate", *arguments])
    return left.value.code


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def same(a: Path | Image.Image, b: Path | Image.Image) -> bool:
    pictures = [Image.open(x) if isinstance(x, Path) else x for x in (a, b)]
    return pictures[0].mode == pictures[1].mode and pictures[0].tobytes() == pictures[1].tobytes()


WHOLE = {"generated.json", "traces.jsonl", "filmstrip.png", "picture.png"}


def test_at_once_it_draws_as_previews_of_that_seed_do(workplace: Path) -> None:
    parts = tiny_bagel_parts()
    run = run_of(workplace / "run", "unified", parts)
    options = Unified.Options(**TIMES)
    previewed = Unified(recipe(evaluate=Evaluate(judge="", seed=7, **SAMPLING)), options, parts).draw(["a red star"])[0]
    assert generate(" a red star ", "--run", str(run), "--seed", "7") == 0
    assert same(Path("a-red-star.png"), previewed)
    assert generate("a red star", "--run", str(run), "--seed", "8") == 0  # what is there stays there
    assert files(workplace) - files(run) >= {"a-red-star.png", "a-red-star-2.png"}
    assert not same(Path("a-red-star.png"), Path("a-red-star-2.png"))
    for option in (["--steps", "3"], ["--text-guidance", "5"]):
        assert generate("a red star", "--run", str(run), "--seed", "7", "-o", "other.png", *option) == 0
        assert not same(Path("other.png"), previewed)


def test_a_stable_diffusion_draws_as_the_stock_pipeline(workplace: Path, tiny_sd: Path) -> None:
    given = ["--steps", "2", "--text-guidance", "3", "--seed", "9"]
    assert generate("a beard", "--run", str(tiny_sd), *given, "-o", "out.png") == 0
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9 * 1_000_003))
    stock = StableDiffusionPipeline.from_pretrained(tiny_sd)
    expected = stock("a beard", latents=noise, num_inference_steps=2, guidance_scale=3.0, height=32, width=32, output_type="np")
    found = np.asarray(Image.open("out.png")) / 255
    np.testing.assert_allclose(found, expected.images[0], atol=1e-3 + 0.5 / 255)


def test_in_steps_it_tells_what_happens_and_saves_a_trace(
    by_heart: Path, workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    assert generate(LEARNED.prompt, "--run", str(by_heart), "--plan", "--seed", "5", "-o", "star") == 0
    assert capsys.readouterr().out.splitlines() == [
        "plan: draw a blue star; then there is: a blue star",
        "sketch 1 saved: star/images/star-01.png",
        "verdict: the image is wrong: the star is red, not blue. To do: make the star blue",
        "plan: make the star blue; then there is: a blue star",
        "refined 2 saved: star/images/star-02.png",
        "verdict: the image is correct",
        "star: picture.png, filmstrip.png, traces.jsonl",
    ]
    assert files(Path("star")) == WHOLE | {"images/star-01.png", "images/star-02.png"}
    trace = next(read_traces(Path("star")))
    assert [(s.ins, s.des, s.inspection) for s in trace.steps] == [(s.ins, s.des, s.inspection) for s in LEARNED.steps]
    assert [s.need_loss.sketch for s in trace.steps] == [False, True]
    assert trace.final == trace.steps[-1].sketch
    about = json.loads(trace.provenance)
    assert (about["seed"], about["sampling"], about["stopped"]) == (5, SAMPLING, "said so")
    # as the method's own previews draw it, with the recipe's times
    parts = load_bagel(str(by_heart / "model"), BagelOptions())
    method = PlanRefine(recipe(evaluate=Evaluate(judge="", seed=5, **SAMPLING)), PlanRefine.Options(**TIMES), parts)
    previewed = method.trajectories([LEARNED.prompt])[0].pictures
    assert [same(step.sketch.open(), p) for step, p in zip(trace.steps, previewed, strict=True)] == [True, True]
    assert same(Path("star/picture.png"), previewed[-1])
    strip = Image.open("star/filmstrip.png")
    strip.load()
    assert strip.width > 2 * 192


def test_json_is_json_alone_and_the_steps_go_to_stderr(by_heart: Path, workplace: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate(LEARNED.prompt, "--run", str(by_heart), "--plan", "--json") == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert "sketch 1 saved: " in shown.err
    kinds = ["plan", "sketch", "verdict", "plan", "refined", "verdict"]
    assert [event["kind"] for event in found["events"]] == kinds
    assert (found["unread"], found["events_in_trace"]) == ("", 6)
    folder = Path(found["folder"])
    assert folder.name == "a-blue-star-plan"
    names = [found["picture"], found["filmstrip"], found["traces"], *(e["image"] for e in found["events"] if "image" in e)]
    assert all((folder / name).is_file() for name in names)
    assert json.loads((folder / "generated.json").read_text()) == {k: v for k, v in found.items() if k != "folder"}
    assert generate("a star", "--run", str(by_heart), "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["picture"] == "a-star.png"
    assert shown.err == "drawing at once; this run also plans, looks and refines: --plan draws in steps\n"


def test_a_terminal_gets_texts_letter_by_letter(by_heart: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    written: list[str] = []
    with open(theirs, "w", encoding="utf-8") as terminal:
        write = terminal.write
        monkeypatch.setattr(terminal, "write", lambda text: (written.append(text), write(text))[1])
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", terminal)
            assert generate(LEARNED.prompt, "--run", str(by_heart), "--plan", "-o", "star") == 0
        lines = os.read(ours, 100_000).decode().splitlines()
    os.close(ours)
    assert lines[0] == plan_text(LEARNED.steps[0])
    assert lines[1] == "sketch 1 saved: star/images/star-01.png"
    pieces = written[: written.index("\n")]
    assert len(pieces) > 5
    assert "".join(pieces) == lines[0]


def test_what_cannot_be_read_is_saved_as_it_was_written(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    parts = tiny_bagel_parts(seed=6)  # which draws and writes by turns
    run = run_of(workplace / "run", "plan_refine", parts, max_text=6, max_pictures=2)
    assert generate("a red star", "--run", str(run), "--plan", "-o", "out") == 0
    shown = capsys.readouterr().out
    found = json.loads(Path("out/generated.json").read_text())
    texts = [event for event in found["events"] if event["kind"] == "text"]
    assert texts
    options = PlanRefine.Options(**TIMES, max_text=6, max_pictures=2)
    method = PlanRefine(recipe(evaluate=Evaluate(judge="", **SAMPLING)), options, parts)
    previewed = method.trajectories(["a red star"])[0].parts
    assert [event["text"] for event in texts] == [part for part in previewed if isinstance(part, str)]
    assert all(event["text"] and event["unread"] for event in texts)
    assert shown.count("(kept as it is; it cannot be read: ") == len(texts)
    assert "not all is a trace" in shown
    assert all(c.isprintable() for line in shown.splitlines() for c in line)
    assert (found["traces"], found["events_in_trace"]) == (None, 0)
    pictures = [event["image"] for event in found["events"] if "image" in event]
    assert len(set(pictures)) == 2
    assert files(Path("out")) == WHOLE - {"traces.jsonl"} | set(pictures)


def test_what_a_model_wrote_gives_a_terminal_no_commands(capsys: pytest.CaptureFixture) -> None:
    made = {"folder": "out", "picture": None, "filmstrip": "filmstrip.png", "traces": None, "stopped": "said so"}
    print_generated(made | {"unread": "found \x1b[2J\r\u202e"})
    assert capsys.readouterr().out.startswith("not all is a trace (found \ufffd[2J\ufffd\ufffd); ")


PLAN, SKETCH, RIGHT = "<ins>draw a star</ins><des>a star</des>", Picture(data=encoded(picture("red"))), "The image is correct."


@pytest.mark.parametrize(
    ("parts", "read", "why", "finished"),
    [
        ([PLAN, SKETCH, RIGHT], 3, "", True),
        ([PLAN, SKETCH], 2, "", True),
        ([PLAN, SKETCH, RIGHT, "hm"], 3, "found 'hm' behind the inspection", True),
        ([PLAN, SKETCH, "The image is correct. Still to come: a cup."], 3, "", False),
        ([PLAN, SKETCH, RIGHT, PLAN], 3, "step 2: found no picture", True),
        ([PLAN, SKETCH, "hm", PLAN, SKETCH], 2, "found 'hm'", True),
        ([PLAN, SKETCH, SKETCH], 2, "found a second picture", True),
        (["hm", PLAN, SKETCH], 0, "expected a plan first", None),
        ([], 0, "nothing was written", None),
    ],
)
def test_the_longest_beginning_that_is_a_trace_is_one(parts: list, read: int, why: str, finished: bool | None) -> None:
    trace, count, found = readable_trace("a star", parts, "key", "")
    assert count == read
    assert why in found
    assert bool(found) == bool(why)
    assert (trace is None) == (finished is None)
    assert trace is None or (trace.final is not None) == finished


@pytest.fixture
def ctrl_c() -> Generator[None, None, None]:
    """Python's own handler: in the background of a shell the signal is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(at_drawing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, calls = Session.sample, itertools.count(1)

    def interrupted(self: Session, *arguments: Any) -> Generator[int, None, torch.Tensor]:
        if next(calls) == at_drawing:
            os.kill(os.getpid(), signal.SIGINT)
        return sample(self, *arguments)

    monkeypatch.setattr(Session, "sample", interrupted)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_saves_what_is_whole_and_says_so(
    by_heart: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    interrupt(2, monkeypatch)
    assert generate(LEARNED.prompt, "--run", str(by_heart), "--plan", "-o", "star") == 130
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == "stopped; the 4 plans, pictures and verdicts that were whole are in star"
    assert shown.err == "editkit: stopped\n"
    assert files(Path("star")) == WHOLE | {"images/star-01.png"}
    trace = next(read_traces(Path("star")))
    assert len(trace.steps) == 1
    assert trace.final is None
    assert json.loads(trace.provenance)["stopped"] == "stopped by hand"


def test_a_full_disk_is_one_line_and_leaves_no_half(by_heart: Path, workplace: Path, capsys: pytest.CaptureFixture) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))  # bytes of a file: enough for a sketch
    try:
        assert generate(LEARNED.prompt, "--run", str(by_heart), "--plan", "-o", "star") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err == "editkit: star: cannot be written (File too large)\n"
    assert files(Path("star")) == {"traces.jsonl", "picture.png", "images/star-01.png", "images/star-02.png"}


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_before_anything_is_whole_leaves_nothing(
    by_heart: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    interrupt(1, monkeypatch)
    assert generate(LEARNED.prompt, "--run", str(by_heart)) == 130
    monkeypatch.setattr(Session, "write", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert generate(LEARNED.prompt, "--run", str(by_heart), "--plan", "--json") == 130
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "nothing was saved" in shown.err
    assert list(workplace.iterdir()) == []


def test_a_model_that_stops_without_a_picture_leaves_with_1(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    run = run_of(workplace / "run", "plan_refine", tiny_bagel_parts(seed=1))  # which stops at once
    assert generate("a red star", "--run", str(run), "--plan", "-o", "out") == 1
    assert "no picture: the model stopped before it drew one (said so)" in capsys.readouterr().out
    assert files(Path("out")) == {"generated.json", "filmstrip.png"}


@pytest.mark.parametrize(
    ("run", "plan", "words"),
    [
        ("lab:tiny-edit", False, 'use editkit edit IMAGE "instruction" --run lab:tiny-edit'),
        ("lab:tiny-edit", True, 'found "a star"; without a chat model expected a caption of an avatar'),
        ("lab:judges/clip", False, 'trained by "contrastive", which draws nothing; expected a model that draws'),
        ("lab:judges/reader", False, "found neither a Stable Diffusion nor a BAGEL"),
        ("lab:tiny-sd", True, "--plan needs a run of recipes/plan_refine.toml"),
        ("EDITOR", False, "found an editor"),
        ("EDITOR", True, "found no [planner]"),
        ("BAGEL", True, "found no editkit.json that says it was trained to plan"),
    ],
)
def test_a_model_that_does_something_else_is_refused(
    run: str, plan: bool, words: str, workplace: Path, tiny_editor: Path, tiny_bagel: Path, capsys: pytest.CaptureFixture
) -> None:
    chosen = {"EDITOR": str(tiny_editor), "BAGEL": str(tiny_bagel)}.get(run, run)
    assert generate("a star", "--run", chosen, *(["--plan"] if plan else [])) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.err.count("\n") == 1
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "out.doc"], 'found the ending ".doc"'),
        (["-o", "nowhere/out.png"], "nowhere: no such folder"),
        (["-o", "full.png"], "full.png: is a folder"),
        (["--plan", "-o", "out.png"], "expected that of a folder"),
        (["--plan", "-o", "full.png/.."], "is there already; expected a new folder, or an empty one"),
        (["--plan", "-o", "nowhere/out"], "nowhere: no such folder"),
        (["--plan", "-o", "file"], "is there already"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_before_any_work(
    arguments: list[str], words: str, workplace: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("full.png").mkdir()
    Path("file").touch()
    assert generate("a star", "--run", "lab:tiny-sd", *arguments) == 2
    assert words in capsys.readouterr().err
    assert files(workplace) == {"file"}
