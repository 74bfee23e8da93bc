"""Judging a model again: a run, and a model with its recipe beside it, on its own data, on other data, over image guidance."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from editkit.errors import UserError
from editkit.evaluate.compare import compare
from editkit.evaluate.run import evaluate
from editkit.evaluate.scores import print_scores
from editkit.evaluate.tradeoff import IMAGE_GUIDANCE
from editkit.train.run import train
from tests.train.test_run import RECIPE, SPEC


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EDITKIT_CACHE", str(folder / "cache"))
        Path("small.toml").write_text(SPEC)
        Path("recipe.toml").write_text(RECIPE.format(base=tiny_sd))
        yield train("recipe.toml", ["train.steps=1", "evaluate.text_grid=[]"])


def test_a_run_is_judged_on_its_own_test_split_and_its_report_says_so(run: Path) -> None:
    assert "This run has not been evaluated" in (run / "report.html").read_text()
    result = evaluate(run.name, pairs=3)
    assert {"followed", "kept", "outside_l1", "n"} <= result.keys()
    assert result["n"] == result["scores"]["n"] == 3
    assert set(result["baselines"]) == {"do_nothing", "ignore_source"}
    assert json.loads((run / "evaluation" / "scores.json").read_text())["scores"] == result["scores"]
    assert "This run has not been evaluated" not in (run / "report.html").read_text()


def test_the_tradeoff_moves_one_thing_only(run: Path, capsys: pytest.CaptureFixture) -> None:
    result = evaluate(run.name, bench="tradeoff", pairs=3)
    assert [p["image_guidance"] for p in result["points"]] == list(IMAGE_GUIDANCE)
    at_recipe = evaluate(run.name, pairs=3)
    recipe_point = min(result["points"], key=lambda p: abs(p["image_guidance"] - at_recipe["settings"]["image_guidance"]))
    assert recipe_point["outside_l1"] == pytest.approx(at_recipe["outside_l1"], abs=0.05)
    assert len({p["outside_l1"] for p in result["points"]}) > 1, "image guidance matters"
    assert "following against keeping" in (run / "report.html").read_text()
    print_scores(result)
    assert "2.2" in capsys.readouterr().out


def test_a_model_with_its_recipe_beside_it_needs_no_data_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "published")
    shutil.copy(run / "recipe.toml", tmp_path / "published")
    result = evaluate(str(tmp_path / "published"), pairs=2)
    assert result["n"] == 2
    assert (Path("runs") / "eval-published" / "evaluation" / "scores.json").is_file()


def test_a_model_without_a_recipe_asks_for_data(run: Path, tiny_editor: Path) -> None:
    with pytest.raises(UserError, match="name some: --bench"):
        evaluate(str(tiny_editor))
    assert evaluate(str(tiny_editor), bench="small.toml", pairs=2)["n"] == 2


def test_edits_are_compared_with_their_targets_and_with_the_ceiling(
    tiny_sd: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(workplace / "cache"))
    Path("small.toml").write_text(SPEC)
    Path("recipe.toml").write_text(RECIPE.format(base=tiny_sd))
    changes = ["train.steps=1", "evaluate.text_grid=[]", 'evaluate.judge="target"', "evaluate.preview_pairs=2"]
    runs = [train("recipe.toml", changes), train("recipe.toml", [*changes, "seed=1"])]
    result = evaluate(runs[0].name, pairs=3)
    assert {"psnr", "ssim", "perceptual", "improved", "n"} <= result.keys()
    assert set(result["baselines"]) == {"do_nothing", "ignore_source", "vae_ceiling"}
    assert result["baselines"]["do_nothing"]["improved"] == 0.0
    assert result["baselines"]["vae_ceiling"]["psnr"] < 20, "random weights decode nothing"
    print_scores(result)
    assert "ceiling" in capsys.readouterr().out
    report = (runs[0] / "report.html").read_text()
    assert "is the target itself through the VAE" in report
    assert "ranked by their PSNR" in report
    assert {"psnr", "ssim"} <= compare([run.name for run in runs])["scores"].keys()
