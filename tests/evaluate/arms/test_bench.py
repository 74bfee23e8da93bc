"""`editkit eval --bench plan_refine`: every arm, what is told of it, that it goes on, and every mistake in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from editkit.cli import main
from editkit.evaluate.arms import inference
from editkit.evaluate.arms.bench import costs_of
from editkit.evaluate.arms.tables import as_markdown, print_plan_refine, tables_of
from editkit.evaluate.benches.geneval import read_results
from tests.evaluate.benches.asked import judged, refused
from tests.evaluate.test_generate_file import run_of
from tests.tiny import tiny_bagel_parts

FEW = ["--bench", "plan_refine", "--pairs", "7"]
ARMS = [
    "adaptive", "direct", "direct-equal", "no-rejection", "oracle", "forced-1", "forced-2", "forced-3", "forced-5", "best-own",
    "best-exact", "search",
]  # fmt: skip
FOLDER = Path("runs/plans/evaluation/plan_refine/scenes-7")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, reader: str) -> Path:
    """A place with a run that plans, whose bench is done, and one that draws at once."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run_of(place / "runs" / "plans", "plan_refine", tiny_bagel_parts(seed=6), max_text=6, max_pictures=2)
        run_of(place / "runs" / "direct", "unified", tiny_bagel_parts())
        with pytest.raises(SystemExit) as left:
            main(["eval", "plans", *FEW, "--judge", reader, "--json"])
        assert left.value.code == 0
    return place


@pytest.fixture
def place(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(measured, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path / "place"


def test_every_arm_is_drawn_scored_and_told(place: Path, capsys: pytest.CaptureFixture) -> None:
    found = json.loads((FOLDER / "summary.json").read_text())
    assert list(found["arms"]) == ARMS
    for name, arm in found["arms"].items():
        rows = read_results(FOLDER / name / "results.jsonl")
        assert len(rows) == found["prompts"] == 7
        costs = costs_of(FOLDER / name)
        assert arm["cost"]["flops"] == pytest.approx(sum(c.flops for c in costs) / 7)
        assert len(list((FOLDER / name).glob("*/samples/0000.png"))) == 7
    flops = {name: arm["cost"]["flops"] for name, arm in found["arms"].items()}
    assert flops["direct-equal"] == pytest.approx(flops["adaptive"], rel=0.3)
    assert flops["search"] > flops["adaptive"]
    assert set(found["differences"]) == set(ARMS) - {"adaptive"}
    assert found["inspector"]["counts"]["pictures"] > 0
    assert found["swaps"]["sketch: own"]["trajectories"] > 0
    assert "difference" in found["swaps"]["sketch: blank"]
    print_plan_refine(found)
    shown = capsys.readouterr().out
    for word in ("best-exact", "unseen", "GFLOPs", "sketch: blank", "adaptive - direct-equal"):
        assert word in shown
    text = (FOLDER / "summary.md").read_text()
    assert text == as_markdown(found)
    for title, rows in tables_of(found):
        assert title in text
        assert {len(row) for row in rows} == {len(rows[0])}


def test_what_is_there_is_not_made_again_and_what_is_not_is(
    place: Path, reader: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((FOLDER / "summary.json").read_text())
    shutil.rmtree(FOLDER / "forced-2")
    (FOLDER / "oracle" / "arm.json").unlink()  # as a kill in its scoring leaves it
    (FOLDER / "swaps.json").unlink()
    shutil.rmtree(FOLDER / "swap-sketch-other")
    drawn = []
    for name in ("direct", "forced", "oracle", "search", "best_of", "no_rejection"):
        way = getattr(inference, name)
        monkeypatch.setattr(inference, name, lambda *a, name=name, way=way: drawn.append(name) or way(*a))
    again = judged(capsys, "plans", *FEW, "--judge", reader)
    assert sorted(drawn) == ["forced", "oracle"]
    assert again == before


def test_a_run_that_does_not_plan_has_what_is_drawn_at_once(place: Path, reader: str, capsys: pytest.CaptureFixture) -> None:
    found = judged(capsys, "direct", *FEW, "--judge", reader, "--against", "plans")
    assert list(found["arms"]) == ["direct", "direct-equal", "best-direct"]
    theirs = json.loads((FOLDER / "summary.json").read_text())["arms"]
    assert found["arms"]["direct-equal"]["cost"]["flops"] == pytest.approx(theirs["adaptive"]["cost"]["flops"], rel=0.3)
    assert found["against"]["run"] == "plans"
    assert set(found["against"]["arms"]) == set(theirs)
    assert not found["inspector"]
    print_plan_refine(found)
    assert "direct - adaptive of plans" in capsys.readouterr().out
    alone = judged(capsys, "direct", *FEW, "--judge", reader)
    assert list(alone["arms"]) == ["direct", "best-direct"]


def test_mistakes_are_one_line(place: Path, tiny_sd: Path, reader: str, capsys: pytest.CaptureFixture) -> None:
    assert "--prompts" in refused(capsys, "plans", "--bench", "plan_refine", "--prompts", "some.jsonl")
    assert "needs a BAGEL" in refused(capsys, str(tiny_sd), *FEW, "--judge", reader)
    assert "score it first" in refused(capsys, "plans", *FEW, "--judge", reader, "--against", "direct")
    shutil.rmtree("runs/plans/model")
    run_of(place / "runs" / "plans", "plan_refine", tiny_bagel_parts(seed=3), max_text=6, max_pictures=2)
    assert "model_sha256" in refused(capsys, "plans", *FEW, "--judge", reader)
