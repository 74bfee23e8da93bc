"""`editkit eval --bench geneval`: what is drawn, that it goes on, what is said of it, and every mistake in one line."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from editkit.cli import main
from editkit.evaluate.benches import BenchOptions
from editkit.evaluate.benches.against import compare_runs
from editkit.evaluate.benches.drawing import DRAWN, count_empty, seed_of
from editkit.evaluate.benches.geneval import read_folder, read_prompts, write_prompt_folders, write_sample
from editkit.evaluate.benches.geneval_run import evaluate, print_geneval
from editkit.evaluate.benches.geneval_summary import summarise
from editkit.evaluate.benches.scene_bench import bench_prompts
from editkit.evaluate.trajectories import EMPTY
from editkit.lab.scene_prompts import prompts
from editkit.lab.scenes import render
from editkit.models.bagel.session import Session
from editkit.models.generator import BagelGenerator
from tests.evaluate.benches.asked import judged, refused
from tests.evaluate.test_generate_file import run_of
from tests.tiny import tiny_bagel_parts

RUN_FACTS = {"state": "done", "started": "2026", "machine": {"name": "any"}, "data": {"sha256": "0" * 64}}
FEW = ["--pairs", "7", "--samples", "2"]  # a prompt of each category


@pytest.fixture
def runs(workplace: Path) -> Path:
    run_of(workplace / "runs" / "direct", "unified", tiny_bagel_parts())
    run_of(workplace / "runs" / "other", "unified", tiny_bagel_parts(seed=3))
    return workplace


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): np.asarray(Image.open(p)).tobytes() for p in sorted(folder.rglob("*.png"))}


def test_a_run_is_drawn_in_the_official_layout_and_scored(runs: Path, reader: str, capsys: pytest.CaptureFixture) -> None:
    found = judged(capsys, "direct", "--bench", "geneval", "--judge", reader, *FEW)
    folder = Path("runs/direct/evaluation/geneval/scenes-7")
    assert Path(found["folder"]) == folder
    drawn = read_folder(folder)
    assert [p.asked for p in drawn] == bench_prompts(7)
    assert [[s.name for s in p.samples] for p in drawn] == [["0000.png", "0001.png"]] * 7
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [r["filename"] for r in rows] == [f"{i:05d}/samples/{n:04d}.png" for i in range(7) for n in range(2)]
    assert {"filename", "tag", "prompt", "correct", "reason", "metadata", "details"} <= set(rows[0])
    official = [r for r in rows if r["tag"] != "multi"]
    assert found["summary"]["overall"] == pytest.approx(summarise(official)["overall"])
    assert set(found["summary"]["tags"]) == {r["tag"] for r in official}
    assert found["beyond"]["multi"]["overall"] == np.mean([r["correct"] for r in rows if r["tag"] == "multi"])
    assert found["judge"] == reader
    assert found["summary"]["tags"]["colors"]["stderr"] is None  # one prompt says nothing of how prompts vary
    assert json.loads((folder / "summary.json").read_text()) == found
    print_geneval(found)
    shown = capsys.readouterr().out
    assert "overall (mean of the tags)" in shown
    assert "multi" in shown


def test_a_picture_is_that_of_generate_under_its_seed(runs: Path, reader: str, capsys: pytest.CaptureFixture) -> None:
    judged(capsys, "direct", "--bench", "geneval", "--judge", reader, *FEW)
    folder = Path("runs/direct/evaluation/geneval/scenes-7")
    asked = bench_prompts(7)[3]
    with pytest.raises(SystemExit):
        main(["generate", asked["prompt"], "--run", "direct", "--seed", str(seed_of(5, 3, 1)), "-o", "same.png"])
    assert np.array_equal(Image.open("same.png"), Image.open(folder / "00003/samples/0001.png"))


def test_a_planner_draws_in_steps_and_its_last_picture_counts(
    runs: Path, reader: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(runs / "runs" / "plans", "plan_refine", tiny_bagel_parts(seed=6), max_text=6, max_pictures=2)
    drawn = []
    steps = BagelGenerator.steps

    def told(self: BagelGenerator, prompt: str, **how: Any) -> Generator[Any, None, None]:
        for event in steps(self, prompt, **how):
            drawn.append((prompt, event))
            yield event

    monkeypatch.setattr(BagelGenerator, "steps", told)
    found = judged(capsys, "plans", "--bench", "geneval", "--judge", reader, "--pairs", "7", "--samples", "1")
    for prompt in read_folder(Path(found["folder"])):
        last = [e.picture for p, e in drawn if p == prompt.asked["prompt"] and hasattr(e, "picture")][-1]
        assert np.array_equal(Image.open(prompt.samples[0]), last)
    assert found["empty"] == 0
    run_of(runs / "runs" / "silent", "plan_refine", tiny_bagel_parts(seed=1))  # which stops at once
    found = judged(capsys, "silent", "--bench", "geneval", "--judge", reader, "--pairs", "7", "--samples", "1")
    assert found["empty"] == 7
    print_geneval(found)
    assert "7 pictures are empty" in capsys.readouterr().out


@pytest.fixture
def ctrl_c() -> Generator[None, None, None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_what_was_stopped_goes_on_and_comes_to_the_same(
    runs: Path, reader: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["direct", "--bench", "geneval", "--judge", reader, *FEW]
    folder = Path("runs/direct/evaluation/geneval/scenes-7")
    draw, calls = Session.draw, []

    def counted(self: Session, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "draw", counted)
        with pytest.raises(SystemExit) as left:
            main(["eval", *given])
        assert left.value.code == 130
        capsys.readouterr()
        half = pictures(folder)
        assert len(half) == 5
        assert "found 5 of 14 pictures" in refused(capsys, str(folder), "--bench", "geneval", "--judge", reader)
        (folder / "00002" / "samples" / "0001.png.half").write_bytes(b"what a kill leaves")
        first = judged(capsys, *given)
        assert len(calls) == 6 + 9, "nothing is drawn twice"
    gone_on = pictures(folder)
    assert half.items() <= gone_on.items()
    shutil.rmtree(folder)
    assert judged(capsys, *given) == first
    assert pictures(folder) == gone_on
    assert len(set(gone_on.values())) == 14, "every picture has noise of its own"


def test_more_pictures_a_prompt_keep_those_that_are_there(runs: Path, reader: str, capsys: pytest.CaptureFixture) -> None:
    given = ["direct", "--bench", "geneval", "--judge", reader, "--pairs", "7"]
    one = judged(capsys, *given, "--samples", "1")
    folder = Path(one["folder"])
    before = pictures(folder)
    judged(capsys, *given, "--samples", "3")
    assert before.items() <= pictures(folder).items()
    assert len(pictures(folder)) == 21
    again = judged(capsys, *given, "--samples", "1")
    assert again == one, "the first picture of each prompt is scored"


def test_pictures_of_another_model_or_of_other_prompts_are_not_taken_for_its_own(
    runs: Path, reader: str, capsys: pytest.CaptureFixture
) -> None:
    given = ["direct", "--bench", "geneval", "--judge", reader, *FEW]
    judged(capsys, *given)
    tiny_bagel_parts(seed=9).save(Path("runs/direct/model"))
    assert "was drawn with model_sha256" in refused(capsys, *given)
    Path("few.jsonl").write_text(json.dumps(bench_prompts(7)[0]) + "\n")
    judged(capsys, "other", "--bench", "geneval", "--judge", reader, "--prompts", "few.jsonl", "--samples", "1")
    Path("few.jsonl").write_text(json.dumps(bench_prompts(7)[1]) + "\n")
    words = refused(capsys, "other", "--bench", "geneval", "--judge", reader, "--prompts", "few.jsonl", "--samples", "1")
    assert "was drawn with prompts_sha256" in words
    folder = Path("runs/other/evaluation/geneval/few")
    (folder / DRAWN).unlink()
    words = refused(capsys, "other", "--bench", "geneval", "--judge", reader, "--prompts", "few.jsonl", "--samples", "1")
    assert "found pictures without drawn.json" in words


def test_two_runs_are_compared_prompt_by_prompt(runs: Path, reader: str, capsys: pytest.CaptureFixture) -> None:
    theirs = judged(capsys, "other", "--bench", "geneval", "--judge", reader, *FEW)
    given = ["direct", "--bench", "geneval", "--judge", reader, *FEW]
    ours = judged(capsys, *given, "--against", "other")
    against = ours["against"]
    assert against["difference"] == pytest.approx(ours["summary"]["overall"] - theirs["summary"]["overall"])
    assert against["low"] <= against["difference"] <= against["high"]
    assert judged(capsys, *given, "--against", theirs["results"])["against"]["difference"] == against["difference"]
    with pytest.raises(SystemExit):
        main(["eval", *given, "--against", "other"])
    assert "direct against other: " in capsys.readouterr().out
    found = compare_runs({"other": Path("runs/other"), "direct": Path("runs/direct")})
    assert found["geneval/scenes-7"][0]["difference"] == against["difference"]
    for name in ("other", "direct"):  # what `compare` reads besides
        (Path("runs") / name / "run.json").write_text(json.dumps(RUN_FACTS))
        (Path("runs") / name / "metrics.jsonl").write_text("")
    with pytest.raises(SystemExit):
        main(["compare", "other", "direct"])
    assert "geneval/scenes-7: direct against other: " in capsys.readouterr().out
    summary = Path(theirs["folder"]) / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"judge": "another"}))
    assert "was judged by another" in refused(capsys, *given, "--against", "other")
    assert compare_runs({"other": Path("runs/other"), "direct": Path("runs/direct")}) == {}


def test_a_folder_that_somebody_else_drew_is_scored_and_left_as_it_is(
    workplace: Path, reader: str, capsys: pytest.CaptureFixture
) -> None:
    asked = prompts(0, "test", 2)
    theirs = workplace / "theirs" / "images"
    for folder, (scene, _) in zip(write_prompt_folders(theirs, [a for _, a in asked]), asked, strict=True):
        for number in range(2):
            write_sample(folder, number, render(scene, 64))
    before = sorted(theirs.rglob("*"))
    found = judged(capsys, str(theirs), "--bench", "geneval", "--judge", reader)
    assert found["samples"] == 2
    assert sorted(theirs.rglob("*")) == before
    assert Path(found["results"]) == Path("runs/eval-theirs-images/evaluation/geneval/results.jsonl")
    assert len(Path(found["results"]).read_text().splitlines()) == 2 * len(asked)
    assert judged(capsys, str(theirs), "--bench", "geneval", "--judge", reader, "--samples", "1")["samples"] == 1
    assert "leave it out" in refused(capsys, str(theirs), "--bench", "geneval", "--prompts", "x.jsonl")
    assert "--samples asks for 3" in refused(capsys, str(theirs), "--bench", "geneval", "--judge", reader, "--samples", "3")
    (theirs / "00001" / "samples" / "0001.png").unlink()
    assert "found 1 pictures, and 00000 has 2" in refused(capsys, str(theirs), "--bench", "geneval", "--judge", reader)
    (theirs / "00001" / "samples" / "0000.png").write_bytes(b"no picture")
    assert "0000.png" in refused(capsys, str(theirs), "--bench", "geneval", "--judge", reader, "--samples", "1")
    (theirs / "00000" / "metadata.jsonl").unlink()
    assert "cannot be read as a GenEval prompt file" in refused(capsys, str(theirs), "--bench", "geneval")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["direct", "--prompts", "nowhere.jsonl"], "nowhere.jsonl: cannot be read as a GenEval prompt file"),
        (["direct", "--prompts", "a.jsonl", "--pairs", "3"], "--pairs: found it with --prompts"),
        (["direct", "--samples", "-1"], "--samples: found -1"),
        (["direct", "--judge", "lab:judges"], "which reads avatars"),
        (["direct", "--judge", "nowhere"], "found no model at"),
        (["direct", "--judge", "nowhere.toml"], "nowhere.toml: no such file"),
        (["direct", "--judge", "chat.toml"], "GenEval is scored by a detector"),
        (["direct", "--judge", "both.toml"], "expected one table"),
        (["direct", "--judge", "mask2former"], "the Hub cannot be reached"),
        (["direct", "--judge", "READER", "--against", "other"], "score it first: editkit eval other --bench geneval"),
        (["direct", "--judge", "READER", "--against", "nowhere"], 'found no run "nowhere"'),
        (["direct", "--judge", "READER", "--prompts", "coco.jsonl"], "found prompts on zebra"),
        (["nowhere", "--judge", "READER"], "found no model at"),
        (["EDITOR", "--judge", "READER"], "found an editor"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_drawn(
    arguments: list[str], words: str, runs: Path, reader: str, tiny_editor: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("chat.toml").write_text('[chat]\nurl = "http://127.0.0.1:1/v1"\nmodel = "any"\n')
    Path("both.toml").write_text('[chat]\nurl = "http://127.0.0.1:1/v1"\nmodel = "any"\n[mask2former]\n')
    asked = {"tag": "single_object", "include": [{"class": "zebra", "count": 1}], "prompt": "a photo of a zebra"}
    Path("coco.jsonl").write_text(json.dumps(asked) + "\n")
    named = {"READER": reader, "EDITOR": str(tiny_editor)}
    assert words in refused(capsys, *(named.get(a, a) for a in arguments), "--bench", "geneval")
    assert not list(Path("runs").rglob("*.png"))


def test_options_of_a_bench_want_a_bench(runs: Path, capsys: pytest.CaptureFixture) -> None:
    assert "--samples: found it without a bench that draws" in refused(capsys, "direct", "--samples", "2")
    assert "--prompts: found it without" in refused(capsys, "direct", "--bench", "tradeoff", "--prompts", "x.jsonl")


def test_the_recipe_names_the_judge_and_the_seed(runs: Path, reader: str, capsys: pytest.CaptureFixture) -> None:
    recipe = Path("runs/direct/recipe.toml")
    recipe.write_text(recipe.read_text().replace('judge = ""', f'judge = "{reader}"'))
    found = judged(capsys, "direct", "--bench", "geneval", *FEW)
    assert found["judge"] == reader
    assert json.loads((Path(found["folder"]) / DRAWN).read_text())["seed"] == 5
    before = pictures(Path(found["folder"]))
    recipe.write_text(recipe.read_text().replace("seed = 5", "seed = 6"))
    assert "was drawn with seed = 5" in refused(capsys, "direct", "--bench", "geneval", *FEW)
    shutil.rmtree(found["folder"])
    judged(capsys, "direct", "--bench", "geneval", *FEW)
    assert before != pictures(Path(found["folder"]))


def test_a_model_without_a_recipe_is_drawn_under_runs(workplace: Path, reader: str, tiny_sd: Path) -> None:
    Path("few.jsonl").write_text("".join(json.dumps(asked) + "\n" for asked in bench_prompts(7)[:2]))
    found = evaluate(str(tiny_sd), BenchOptions(prompts="few.jsonl", samples=1, judge=reader))
    assert Path(found["folder"]) == Path("runs") / f"eval-{tiny_sd.name}" / "evaluation" / "geneval" / "few"
    assert len(read_folder(Path(found["folder"]))) == len(read_prompts(Path("few.jsonl"))) == 2


@given(st.integers(0, 2**31 - 1), st.integers(0, 5000), st.integers(0, 99))
def test_a_seed_depends_on_all_and_is_one_that_generate_takes(seed: int, prompt: int, sample: int) -> None:
    found = seed_of(seed, prompt, sample)
    assert 0 <= found < 2**31
    assert found == seed_of(seed, prompt, sample)
    assert (
        len({found, seed_of(seed, prompt + 1, sample), seed_of(seed, prompt, sample + 1), seed_of(seed + 1, prompt, sample)})
        > 1
    )


def test_only_pictures_of_the_empty_colour_are_empty(tmp_path: Path) -> None:
    for number, colour in enumerate((EMPTY, (0, 0, 0))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{number}.png")
    assert count_empty([tmp_path / "0.png", tmp_path / "1.png"]) == 1
    assert math.isfinite(count_empty([]))
