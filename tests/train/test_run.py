"""A run from recipe to report, on a tiny real model and a small real world; stopped, killed and resumed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from editkit.build import build
from editkit.errors import UserError
from editkit.recipe.load import load_recipe, recipe_hash
from editkit.train.check import check
from editkit.train.checkpoint import list_checkpoints, read_checkpoint
from editkit.train.loop import Trainer
from editkit.train.machines import NAMED
from editkit.train.post_hoc import reconstruct
from editkit.train.run import SNAPSHOTS, train
from editkit.train.setup import check_recipe
from tests.tiny import picture
from tests.train.kill import differing

ROOT = Path(__file__).parents[2]

SPEC = """\
format = 1
name = "small"
kind = "edit_pairs"
[build]
builder = "avatars"
train = 12
test = 4
size = 32
seed = 3
"""

RECIPE = """\
format = 1
name = "small"
[method]
name = "instruct_edit"
[model]
family = "stable_diffusion"
base = "{base}"
[data]
train = "small.toml"
resolution = 32
flip = 0.5
[optim]
lr = 1e-3
warmup = 2
[train]
steps = 6
batch_size = 4
accumulate = 2
ema_decay = 0.9
log_every = 1
save_every = 1
preview_every = 3
[evaluate]
steps = 2
text_grid = [1.5, 3.0]
image_grid = [1.0]
"""


@pytest.fixture
def recipe(workplace: Path, tiny_sd: Path) -> str:
    (workplace / "small.toml").write_text(SPEC)
    (workplace / "recipe.toml").write_text(RECIPE.format(base=tiny_sd))
    return "recipe.toml"


def test_a_run_leaves_everything_that_is_promised(recipe: str) -> None:
    run = train(recipe, [])
    for name in ("recipe.toml", "run.json", "metrics.jsonl", "report.html", "model/editkit.json", "model/model_index.json"):
        assert (run / name).is_file(), name
    assert {p.name for p in (run / "previews").iterdir()} == {
        "step-000003.png", "step-000003-grid.png", "step-000006.png", "step-000006-grid.png",
    }  # fmt: skip
    facts = json.loads((run / "run.json").read_text())
    assert (facts["state"], facts["steps"], facts["samples"]) == ("done", 6, 48)
    assert [p.name for p in list_checkpoints(run)] == ["step-000005", "step-000006"]
    report = (run / "report.html").read_text()
    assert "This run has not been evaluated" in report
    assert not re.search(r'(src|href)="(?!data:|#)', report), "the report needs nothing from anywhere"

    from diffusers import StableDiffusionInstructPix2PixPipeline

    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(run / "model")
    averages = read_checkpoint(list_checkpoints(run)[-1])["averages"]["0.9"]
    name, exported = next(iter(pipeline.unet.named_parameters()))
    assert torch.equal(exported, averages[f"unet.{name}"]), "the averaged weights are exported"


def test_a_run_that_is_being_trained_cannot_be_resumed_beside(recipe: str) -> None:
    run = train(recipe, ["train.steps=1"])
    script = f"from editkit.runs import hold_run, Path\nwith hold_run(Path({str(run)!r})): print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is training this run"):
            train(recipe, ["train.steps=1"], resume=run.name)
        other.kill()
    train(recipe, ["train.steps=1"], resume=run.name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_and_resumed_run_equals_the_one_that_was_never_stopped(recipe: str, number: signal.Signals) -> None:
    whole = train(recipe, [])
    original = Trainer._one_step

    def interrupted(self: Trainer, *args: Any) -> dict:
        if self.step == 3:
            os.kill(os.getpid(), number)
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_one_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, [])
    stopped = max(Path("runs").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    assert json.loads((stopped / "run.json").read_text())["state"] == "stopped"
    assert list_checkpoints(stopped)[-1].name == "step-000004", "the step in hand was finished"
    train(recipe, [], resume=stopped.name)
    assert differing(stopped, whole) == []


def test_a_killed_process_resumes_to_the_same_weights(recipe: str, workplace: Path) -> None:
    whole = train(recipe, ["train.preview_every=0"])
    command = [sys.executable, "-m", "editkit", "train", recipe, "--set", "train.preview_every=0", "--set", "train.steps=6"]
    process = subprocess.Popen(command, cwd=workplace, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 120
    killed: list[Path] = []
    while not killed and time.monotonic() < deadline and process.poll() is None:
        killed = [p for p in Path("runs").iterdir() if p != whole and list_checkpoints(p)]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert killed, "the process wrote a checkpoint"
    train(recipe, ["train.preview_every=0"], resume=str(killed[0]))
    assert differing(killed[0], whole) == []


def test_a_resume_of_something_else_is_refused(recipe: str) -> None:
    run = train(recipe, ["train.steps=1", "evaluate.text_grid=[]"])
    with pytest.raises(
        UserError, match=r"cannot be resumed, it was made from something else:\noptim\.lr: 0\.001 in the run, 0\.5 now\n"
    ):
        train(recipe, ["train.steps=1", "optim.lr=0.5"], resume=str(run))
    longer = ["train.steps=2", "evaluate.text_grid=[]", "optim.lr=0.5", 'train.resume_despite=["optim.lr"]']
    before = (run / "recipe.toml").read_text()
    train(recipe, longer, resume=str(run))
    facts = json.loads((run / "run.json").read_text())
    loaded, _ = load_recipe(run / "recipe.toml")
    assert (loaded.optim.lr, loaded.train.steps, facts["recipe_sha256"]) == (0.5, 2, recipe_hash(loaded))
    assert [(r["until_step"], r["recipe"]) for r in facts["recipes_before"]] == [(1, before)]
    assert [p.name for p in list_checkpoints(run)][-1] == "step-000002"


def test_a_finished_run_exports_an_average_of_another_length(recipe: str) -> None:
    changes = ["train.post_hoc_ema=true", "evaluate.text_grid=[]"]
    run = train(recipe, changes)
    weights = run / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    first = load_file(weights)["conv_in.weight"]
    assert train(recipe, [*changes, "train.export_sigma_rel=0.12"], resume=str(run)) == run
    second = load_file(weights)["conv_in.weight"]
    (wanted,) = (a for n, a in reconstruct(run / SNAPSHOTS, 0.12).items() if n.endswith("conv_in.weight"))
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, wanted, rtol=0, atol=1e-7)


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_touched(recipe: str) -> None:
    with pytest.raises(UserError, match="the weights were not touched") as stopped:
        train(recipe, ["optim.lr=1e30", "optim.warmup=0"])
    (run,) = Path("runs").iterdir()
    assert stopped.value.__notes__ == [f"editkit env --bundle {run} packs what an issue report needs"]


def test_check_describes_a_recipe_without_training(recipe: str) -> None:
    facts = check_recipe(recipe)
    assert facts["training examples"] == 12
    assert facts["samples"] == 48
    assert not Path("runs").exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator computes in fp16")
def test_check_estimates_for_other_machines_what_this_one_cannot_train(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(recipe).read_text()
    Path("elsewhere.toml").write_text(text.replace("[train]\n", '[train]\nprecision = "fp16"\n'))
    assert check("elsewhere.toml", json=True) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["refused"].startswith('train.precision: found "fp16" on the CPU')
    assert (facts["precision"], facts["estimate"], facts["training examples"]) == ("fp16", None, 12)
    assert len(facts["elsewhere"]) == len(NAMED)
    assert all(e["peak"] > 0 for e in facts["elsewhere"])
    assert check("elsewhere.toml") == 1
    assert 'not on this machine: train.precision: found "fp16"' in capsys.readouterr().out


def test_the_wrong_kind_of_data_is_refused(recipe: str, workplace: Path) -> None:
    text = SPEC.replace("edit_pairs", "captioned_images").replace('"small"', '"captions"')
    (workplace / "captions.toml").write_text(text)
    with pytest.raises(UserError, match="learns from edit_pairs"):
        train(recipe, ["data.train=captions.toml"])


def test_building_is_the_same_for_any_number_of_processes(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build("small.toml", "one")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    again = build("small.toml", "two")
    shards = [json.loads((p / "dataset.json").read_text())["sha256"] for p in (first, again)]
    assert shards[0] == shards[1]


def test_a_built_folder_opens_with_the_datasets_library(recipe: str) -> None:
    import datasets

    folder = build("small.toml")
    loaded = datasets.load_dataset(str(folder), split="train")
    assert len(loaded) == 12
    assert loaded[0]["source"].size == (32, 32)
    assert loaded[0]["instructions"]


def test_a_run_in_other_numbers_says_so_stops_and_goes_on_exactly(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ["train.precision=bf16", "train.weights=bf16-stochastic", "train.gradient_checkpointing=true",
               "train.offload=encoders", "train.attention=math", "train.preview_every=0"]  # fmt: skip
    whole = train(recipe, numbers)
    header = capsys.readouterr().out
    assert "trained weights in bf16-stochastic" in header
    assert "is lost in rounding for" in header
    state = read_checkpoint(list_checkpoints(whole)[-1])
    assert {v.dtype for v in state["weights"].values()} == {torch.bfloat16, torch.float32}
    assert {v.dtype for v in state["averages"]["0.9"].values()} == {torch.float32}
    assert list((whole.parents[1] / "cache").glob("parked-*")), "the encoders were parked"
    run = train(recipe, numbers)
    for late in list_checkpoints(run)[1:]:
        shutil.rmtree(late)
    assert not differing(train(recipe, numbers, resume=str(run)), whole)


@pytest.mark.parametrize("base", ["nf4", "int8", "bf16"])
def test_a_run_with_a_base_in_fewer_bits_edits_like_any_other(
    recipe: str, capsys: pytest.CaptureFixture[str], base: str
) -> None:
    numbers = [f"train.base={base}", "train.precision=bf16", 'adapter={"name"="lora"}', "train.steps=2"]
    numbers += ["train.offload=base"] if base == "bf16" else []
    run = train(recipe, numbers)
    header = capsys.readouterr().out
    assert "frozen base: " in header
    assert (run / "adapter" / "pytorch_lora_weights.safetensors").is_file()
    assert (run / "previews" / "step-000002.png").is_file()
    from editkit.models.editor import load_editor

    assert load_editor(str(run)).edit([picture("red")], ["make the hair red"], steps=1)[0].size == (32, 32)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.base=nf4", "add [adapter]"),
        ("train.offload=base", "add [adapter]"),
        ("train.weights=bf16", 'needs precision = "bf16"'),
        ("train.attention=xformers", "xformers"),
    ],
)
def test_numbers_that_cannot_be_are_refused(recipe: str, override: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        train(recipe, [override])
    assert not Path("runs").exists()
