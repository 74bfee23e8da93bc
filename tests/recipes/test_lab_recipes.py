"""Every lab recipe really runs: three steps, pictures, scores, export, report."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest

from editkit.cli import main
from editkit.data.read import open_dataset
from editkit.methods import method_class
from editkit.models.generator import DRAWING, PLANS
from editkit.recipe.load import load_recipe
from editkit.train.run import train
from tests.bench.memory import SPEC

ROOT = Path(__file__).parents[2]
# Their keys are those of others: a4, a5, a6, a8 have those of a1 to a3, a7 has plan_refine's, a stage those of the last one.
DOUBLES = ("a4", "a5", "a6", "a7", "a8", "tiny_bagel_verdicts")
RECIPES = sorted(
    path
    for folder in (".", "lab", "plan_refine")
    for path in (ROOT / "recipes" / folder).glob("*.toml")
    if path.stem not in DOUBLES
)

SMALL = [
    "train.steps=3", "train.batch_size=4", "train.accumulate=1", "train.log_every=1", "train.save_every=2",
    "train.preview_every=2", "train.precision=fp32", "evaluate.pairs=4", "evaluate.preview_pairs=4",
    "evaluate.steps=2", "optim.warmup=1",
]  # fmt: skip

SCENES = """\
format = 1
name = "{name}"
kind = "{kind}"
licence = "as stated"
[build]
builder = "{builder}"
train = 24
test = 12
"""
# Methods that learn from a world alone: the name of their data set.
WORLDS = {"scene_reader": "scene_readings", "unified": "scenes", "plan_refine": "plan_traces"}


def settings(path: Path) -> list[str]:
    """The recipe at a size for tests, on the shipped models."""
    recipe, _ = load_recipe(path)
    data = f"{method_class(recipe.method.name).kind}.toml"
    if recipe.method.name in WORLDS:
        data = f"{WORLDS[recipe.method.name]}.toml"
    chosen = [*SMALL, f"data.train={data}"]
    if recipe.data.last_pictures:
        chosen.append("data.train=plan_traces.toml")
    if recipe.method.name == "plan_refine":
        chosen += ["method.max_text=6", "method.max_pictures=2"]  # a network that knows nothing writes as much as it may
    if recipe.data.mix:
        chosen.append('data.mix=[{train="scene_edits.toml", weight=0.5}]')
    if recipe.evaluate.text_grid:
        chosen += ["evaluate.text_grid=[1.5, 3.0]", "evaluate.image_grid=[1.0]"]
    return chosen


def generated(run: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["generate", "a red star", "--run", str(run), *arguments])
    return left.value.code


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the specs of small data sets of every kind, and the data sets."""
    folder = tmp_path_factory.mktemp("small")
    specs = {kind: SPEC.format(kind=kind, train=16, test=6) for kind in ("edit_pairs", "captioned_images")}
    for name, kind, builder in (
        ("scene_readings", "captioned_images", "scene_readings"),
        ("scenes", "captioned_images", "scenes"),
        ("scene_edits", "edit_pairs", "scenes"),
        ("plan_traces", "plan_traces", "plan_refine"),
    ):
        specs[name] = SCENES.format(name=name, kind=kind, builder=builder)
    with contextlib.chdir(folder):
        for name, text in specs.items():
            Path(f"{name}.toml").write_text(text)
            open_dataset(f"{name}.toml")
    return folder


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_three_steps_of_every_lab_recipe(path: Path, workplace: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editkit.methods.unified.WORLD_TEXTS", 20)
    # a third of the time: tests/train/test_estimate.py has it
    monkeypatch.setattr("editkit.train.run.expected_line", lambda *_: "expected: not asked")
    shutil.copytree(data, workplace, dirs_exist_ok=True)
    run = train(str(path), settings(path))
    facts = json.loads((run / "run.json").read_text())
    assert (facts["state"], facts["steps"]) == ("done", 3)
    result = json.loads((run / "evaluation" / "scores.json").read_text())
    assert result["scores"]["n"] == 4
    assert (run / "report.html").stat().st_size > 10_000
    if facts["method"] in DRAWING:
        assert generated(run, "-o", "star.png") == 0
        assert Path("star.png").is_file()
    if facts["method"] == PLANS:
        assert generated(run, "--plan", "-o", "star") in (0, 1)  # a network that knows nothing may stop before it draws
        assert Path("star/generated.json").is_file()
    if facts["method"] == "instruct_edit":
        idle = result["baselines"]["do_nothing"]
        if "psnr" in idle:
            assert idle["improved"] == 0.0
            assert result["baselines"]["vae_ceiling"]["n"] == 4
        else:
            assert idle["kept"] > 0.95
            assert idle["outside_l1"] == 0.0
        assert len(list((run / "evaluation" / "images").iterdir())) == 12


def test_the_published_recipe_runs_end_to_end_on_a_small_model(workplace: Path, tiny_sd: Path) -> None:
    (workplace / "edit_pairs.toml").write_text(SPEC.format(kind="edit_pairs", train=16, test=6))
    overrides = [
        f"model.base={tiny_sd}", "data.train=edit_pairs.toml", "data.resolution=32", "train.steps=2", "train.batch_size=2",
        "train.accumulate=2", "train.precision=fp32", "evaluate.steps=2", "evaluate.pairs=2", "data.workers=2",
    ]  # fmt: skip
    run = train(str(ROOT / "recipes" / "full" / "instructpix2pix_sd15.toml"), overrides)
    from diffusers import StableDiffusionInstructPix2PixPipeline

    from editkit.evaluate.run import evaluate
    from editkit.models.editor import load_editor
    from tests.tiny import picture

    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(run / "model")
    assert pipeline.unet.config.in_channels == 8
    assert load_editor(str(run)).edit([picture("red")], ["make it blue"], steps=2)[0].size == (32, 32)
    assert evaluate(run.name, pairs=2)["n"] == 2
