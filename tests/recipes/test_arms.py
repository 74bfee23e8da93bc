"""The rows of the plan-refine experiment: what each recipe says, equal training operations, and rows that go on and add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from editkit.build.self_sampled import Sampled
from editkit.data.spec import load_spec
from editkit.errors import UserError
from editkit.evaluate.benches.scene_bench import bench_prompts
from editkit.recipe.load import load_recipe
from tests.bench import arms
from tests.bench.arms import RECIPES, ROOT, Experiment, flops_of, main, table
from tests.tiny import TRACES_SPEC

SMALL = (
    "train.batch_size=4", "train.precision=fp32", "train.save_every=0", "train.preview_every=0", "evaluate.pairs=2",
    "evaluate.preview_pairs=0", "evaluate.steps=2", "optim.warmup=1", 'data.train="traces.toml"',
)  # fmt: skip
PLANNER = ("method.max_text=6", "method.max_pictures=2")


def test_each_recipe_says_what_its_arm_is() -> None:
    found = {name: load_recipe(RECIPES / f"{name.lower()}.toml")[0] for name in arms.ROWS[1:]}
    parent = load_recipe(ROOT / "recipes" / "plan_refine.toml")[0]
    assert {r.train.batch_size for r in found.values()} == {parent.train.batch_size}
    assert {r.optim.lr for r in found.values()} == {parent.optim.lr}
    assert [n for n, r in found.items() if r.method.name != "plan_refine"] == ["A1"]
    assert found["A1"].data.last_pictures
    assert found["A2"].method.options["sketches"] == "last"
    assert [n for n, r in found.items() if not r.method.options.get("always_inspect", True)] == ["A3", "A4"]
    assert [n for n, r in found.items() if r.method.options.get("learn_faulty_drafts")] == ["A9"]
    assert {n: r.data.categories for n, r in found.items() if r.data.categories} == {
        "A2": ["multi-turn"], "A3": ["multi-turn"], "A4": ["multi-turn"], "A5": ["multi-turn", "text-side"],
        "A6": ["multi-turn", "image-side"],
    }  # fmt: skip
    additive, lab = (load_spec(ROOT / "data_specs" / f"plan_refine_{name}.toml")[0] for name in ("additive", "lab"))
    assert Path(found["A3"].data.train).stem == "plan_refine_additive"
    assert additive.build is not None
    assert lab.build is not None
    assert additive.build.options == {**lab.build.options, "detours": 0.0}


@pytest.fixture
def place(workplace: Path) -> Path:
    (workplace / "traces.toml").write_text(TRACES_SPEC)
    return workplace


def test_rows_train_with_as_many_operations(place: Path, tiny_bagel: Path) -> None:
    experiment = Experiment(place / "arms", place / "kept", traces=20, base=str(tiny_bagel), changes=SMALL)
    for name in ("A8", "A1", "A4"):
        recipe = str(RECIPES / f"{name.lower()}.toml")
        found = experiment._compute(name, recipe, experiment._changes(name, "any"))
        batch, flops = flops_of(recipe, experiment._changes(name, "any"))
        assert found["flops_an_example"] == flops
        reference = json.loads((experiment.place / "compute-A8.json").read_text())
        assert abs(found["training_flops"] - reference["training_flops"]) <= batch * flops / 2  # to half a step
        assert name == "A4" or (found["steps"] == 5) == (name == "A8")  # one pass of 20 traces in fours
        assert name != "A1" or found["steps"] > 10  # a picture takes much less than a trace


def test_a_row_is_trained_and_measured_once(place: Path, tiny_bagel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, str]] = []

    def measure(run: str, options: Any) -> dict[str, Any]:
        measured.append((run, options.against))
        bench = Path(run, "bench") if Path(run).is_dir() else place / "bench"
        seen = {"tag": "t", "prompt": "p"}
        rows = [{"filename": f"{n:05d}/samples/0000.png", "correct": n, "atoms": [n, 1], **seen} for n in (1, 0)]
        (bench / "direct").mkdir(parents=True, exist_ok=True)
        (bench / "direct" / "results.jsonl").write_text("\n".join(map(json.dumps, rows)))
        figures = {"facts": {"seed": 0}, "cost": {"flops": 1.0}}
        return {"folder": str(bench), "judge": "eyes", "arms": {"direct": figures}, "inspector": {}, "swaps": {}}

    monkeypatch.setattr(arms, "measure", measure)
    changes = (*SMALL, *PLANNER)
    experiment = Experiment(place / "arms", place / "kept", traces=20, base=str(tiny_bagel), changes=changes)
    first = experiment.row("A8")
    facts = json.loads((Path(first["run"]) / "run.json").read_text())
    assert (facts["state"], facts["steps"]) == ("done", first["steps"])
    write = experiment._file("A7")
    assert first["marks"] == {"direct": [[0, 0, 1], [1, 1, 1]]}  # in the order of the prompts
    write.write_text(json.dumps({**first, "row": "A7"}))  # as if it was measured
    monkeypatch.setattr(arms, "train", lambda *a, **k: pytest.fail("trained again"))
    assert experiment.row("A8") == first
    (Path(first["run"]) / "evaluation" / "plan_refine").mkdir()
    assert experiment.row("A8") == first
    run = first["run"]
    assert measured == [(run, ""), (run, ""), (run, run)]  # against an A7 that is still there
    assert experiment.row("A0")["run"] == str(tiny_bagel)


def test_a_stopped_training_goes_on(place: Path, tiny_bagel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(place / "arms", place / "kept", traces=20, base=str(tiny_bagel), changes=(*SMALL, *PLANNER))
    run = place / "runs" / "arm-a8-20-0-20260101-000000"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"state": "stopped", "started": "2026"}))
    asked: list[Any] = []
    monkeypatch.setattr(arms, "train", lambda *a, **k: asked.append(k) or run)
    experiment.trained("A8")
    assert [Path(k["resume"]).name for k in asked] == [run.name]


def test_its_own_mistakes_are_sampled_before_it_learns_from_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment(place / "arms", place / "kept", traces=20, changes=SMALL)
    monkeypatch.setattr(Experiment, "trained", lambda self, name: {"run": name})
    monkeypatch.setattr(arms, "version_of", lambda folder: "0")
    monkeypatch.setattr(arms, "locate_trained", lambda run, names: Path(run))
    monkeypatch.setattr(arms, "load_planner", lambda run: run)
    monkeypatch.setattr(arms, "Rollouts", lambda planner, batch, temperature: (planner, temperature))
    monkeypatch.setattr(Sampled, "__init__", lambda self, *a: None)
    asked: list[Any] = []
    monkeypatch.setattr(arms, "sample_traces", lambda *a, **k: asked.append((a, k)))
    monkeypatch.setattr(Sampled, "count", lambda self, cell: 0)
    with pytest.raises(UserError, match="too few"):
        experiment._self_sampled()
    monkeypatch.setattr(Sampled, "count", lambda self, cell: 99)
    changes = experiment._changes("A7", "any")
    (rollouts, traces, folder, _), how = asked[-1]
    assert rollouts == ("A4", arms.TEMPERATURE)
    assert traces
    assert {t.category.split(":")[0] for t in traces} == {"multi-turn"}
    assert how["each"] == 4
    spec, _ = load_spec(experiment.place / "self_sampled.toml")
    assert changes[-1] == f'data.train="{experiment.place / "self_sampled.toml"}"'
    assert spec.build is not None
    assert (spec.build.options["train"], spec.build.options["critiques"]) == (20, {"sampled": str(folder)})
    experiment._self_sampled()
    assert len(asked) == 2  # it is there
    assert not any("self_sampled" in change for change in experiment._changes("A8", "any"))


def fake(place: Path, name: str, seed: int, main: str, shares: dict[str, float]) -> None:
    """A row's file."""
    marks = {}
    for arm, share in shares.items():
        rng = np.random.default_rng(seed)
        marks[arm] = [[int(right), int(right), 1] for right in rng.random(len(bench_prompts(84))) < share]
    folder = place / "kept" / "traces-20" / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    said = {"row": name, "seed": seed, "traces": 20, "main": main, "pairs": 84, "marks": marks, "base": "one"}
    (folder / f"{name}.json").write_text(json.dumps(said))


def test_the_table_pairs_what_both_rows_have(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    for seed in (0, 1):
        fake(workplace, "A7", seed, "adaptive", {"adaptive": 1.0, "best-own": 0.5})
    fake(workplace, "A1", 0, "direct", {"direct": 0.0})
    data, text = table(workplace / "kept")
    assert [(r["row"], r["seeds"], r["correct"]["all"]) for r in data["rows"]] == [("A1", [0], 0.0), ("A7", [0, 1], 1.0)]
    gaps = {(d["row"], d["arm"]): d for d in data["differences"]}
    assert set(gaps) == {("A1", "direct"), ("A7", "best-own")}
    assert gaps["A1", "direct"]["seeds"] == [0]
    assert gaps["A1", "direct"]["parts"]["unseen"]["difference"] == pytest.approx(1.0)
    assert gaps["A7", "best-own"]["parts"]["all"]["seeds"] == 2
    assert "| 20 | A1, direct | 0 | +100.0 (+100.0 to +100.0) |" in text
    assert main(["table", "--kept", str(workplace / "kept")]) == 0
    assert json.loads((workplace / "kept" / "table.json").read_text()) == data
    assert text in capsys.readouterr().out
    other = workplace / "kept" / "traces-20" / "seed-0" / "A1.json"
    other.write_text(other.read_text().replace('"one"', '"two"'))
    with pytest.raises(UserError, match="rows of 2 bases"):
        table(workplace / "kept")
    assert main(["table", "--kept", str(workplace / "none")]) == 2
    assert capsys.readouterr().err.startswith("arms: ")
