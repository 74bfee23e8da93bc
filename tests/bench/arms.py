"""The experiment on plan, sketch, inspect, refine: one command a row, `python -m tests.bench.arms A7 --seed 0`.

A row is trained and measured; the base of all is the recipe's (`--base` names another one). `python -m tests.bench.arms table`
puts what is there together. A command that was stopped goes on: an ended training and a drawn arm are not made again. What a
row came to, which picture was right included, is a file in `docs/arms/`, so that it still counts when its run is gone.

    A0      the base
    A1      direct fine-tuning on the last pictures
    A2      a plan in words, then one picture
    A3, A4  steps that only add, and steps of every kind; nobody looks
    A5, A6  A4 with critiques of plans, of pictures
    A7, A8  A4 with both, of plans that a model sampled, and of planted faults
    A9      A7, with the loss on faulty drafts too

A5, A7 and A9 learn from plans that the A4 of their seed sampled, which is trained first. All rows take as many operations in
training as one pass of A8 over its traces, computed from the packed lengths of `COUNTED` examples of each and told in the row's
file. A1 also draws with as many operations as A7, where the A7 of its seed was measured before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from editkit.build.proportions import largest_remainder
from editkit.build.self_sampled import Sampled
from editkit.data.read import open_dataset
from editkit.errors import UserError
from editkit.evaluate.arms.bench import ADAPTIVE, DIRECT, FOLDER
from editkit.evaluate.arms.bench import evaluate as measure
from editkit.evaluate.arms.figures import differences, parts_of
from editkit.evaluate.arms.tables import gap, markdown_table
from editkit.evaluate.benches import BenchOptions
from editkit.evaluate.benches.geneval import read_results
from editkit.evaluate.benches.geneval_run import LAB_PROMPTS
from editkit.evaluate.benches.geneval_summary import Rows, summarise
from editkit.evaluate.benches.scene_bench import RESULTS, bench_prompts
from editkit.evaluate.sample_traces import sample_traces
from editkit.files import write_whole
from editkit.lab.scene_traces import CELLS, MULTI_TURN, TEXT_RIGHT, TEXT_WRONG
from editkit.models.generator import load_planner
from editkit.models.locate import locate_trained, version_of
from editkit.models.rollouts import Rollouts
from editkit.recipe.load import load_recipe
from editkit.runs import RUNS
from editkit.train.run import train
from editkit.train.setup import prepare_run

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "plan_refine"
KEPT = ROOT / "docs" / "arms"
SPEC = ROOT / "data_specs" / "plan_refine_lab.toml"
ROWS = tuple(f"A{n}" for n in range(10))
SELF_SAMPLED = ("A5", "A7", "A9")
REFERENCE = "A8"  # whose training all others cost as much as
COUNTED = 256  # examples, over the whole data set
TEMPERATURE = 0.3  # of the plans that are sampled, as the released sampler's
EACH = 4  # trajectories of a prompt
PARTS = ("all", "seen", "unseen", "multi")


@dataclass(frozen=True)
class Experiment:
    """One seed at one amount of data.

    Attributes:
        folder: of all seeds and amounts; for what is large, or can be made again.
        kept: the same for what a row came to.
        seed: of the trainings.
        traces: of which each row takes its part.
        base: "" = the recipe's.
        pairs: prompts of the bench; 0 = its own number.
        judge: who looks; "" = as the bench has it.
        changes: "a.b=value", of all recipes.
    """

    folder: Path
    kept: Path
    seed: int = 0
    traces: int = 20_000
    base: str = ""
    pairs: int = 0
    judge: str = ""
    changes: tuple[str, ...] = ()

    @property
    def place(self) -> Path:
        """Where the files of this seed and this amount lie."""
        return self.folder / self._under

    @property
    def _under(self) -> Path:
        return Path(f"traces-{self.traces}") / f"seed-{self.seed}"

    def row(self, name: str) -> dict[str, Any]:
        """Trains and measures a row; what it came to, which is also in its file."""
        base = self.base or load_recipe(RECIPES / "a1.toml")[0].model.base
        trained = {"run": base} if name == "A0" else self.trained(name)
        claim = self._read(self._file("A7")).get("run", "") if name != "A7" else ""
        measured = Path(claim, "evaluation", FOLDER).is_dir()
        options = BenchOptions(pairs=self.pairs, judge=self.judge, against=claim if measured else "")
        found = measure(trained["run"], options)
        result = {
            "row": name, "seed": self.seed, "traces": self.traces, **trained, "base": version_of(base), "judge": found["judge"],
            "main": ADAPTIVE if ADAPTIVE in found["arms"] else DIRECT, "pairs": self.pairs or LAB_PROMPTS,
            "marks": {arm: _marks(read_results(Path(found["folder"]) / arm / RESULTS)) for arm in found["arms"]},
            "costs": {arm: {**figures["facts"], **figures["cost"]} for arm, figures in found["arms"].items()},
            "inspector": found["inspector"], "swaps": found["swaps"],
        }  # fmt: skip
        self._file(name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._file(name), json.dumps(result))
        return result

    def trained(self, name: str) -> dict[str, Any]:
        """Trains a row to its end: its run, its steps, and the operations that they took."""
        title = f"arm-{name.lower()}-{self.traces}-{self.seed}"
        recipe, changes = str(RECIPES / f"{name.lower()}.toml"), self._changes(name, title)
        compute = self._compute(name, recipe, changes)
        changes.append(f"train.steps={compute['steps']}")
        runs = sorted(p.parent for p in RUNS.glob(f"{title}-2*/run.json"))
        state = json.loads((runs[-1] / "run.json").read_text(encoding="utf-8"))["state"] if runs else ""
        run = runs[-1] if state == "done" else train(recipe, changes, resume=str(runs[-1]) if runs else None)
        return {"run": str(run), **compute}

    def _changes(self, name: str, title: str) -> list[str]:
        changes = [f"seed={self.seed}", f'name="{title}"', f"data.limit={self.traces}", *self.changes]
        changes += [f'model.base="{self.base}"'] if self.base else []
        return [*changes, f'data.train="{self._self_sampled()}"'] if name in SELF_SAMPLED else changes

    def _compute(self, name: str, recipe: str, changes: Sequence[str]) -> dict[str, Any]:
        """Steps that take what the reference's take."""
        path = self.place / f"compute-{name}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        batch, flops = flops_of(recipe, changes)
        if name == REFERENCE:
            budget = self.traces * flops
        else:
            reference = self._compute(REFERENCE, str(RECIPES / f"{REFERENCE.lower()}.toml"), self._changes(REFERENCE, "any"))
            budget = reference["training_flops"]
        steps = max(1, round(budget / (batch * flops)))
        found = {"steps": steps, "flops_an_example": flops, "training_flops": steps * batch * flops}
        self.place.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(found))
        return found

    def _self_sampled(self) -> Path:
        """The data spec whose critiques are of plans that the A4 of this seed wrote."""
        place = self.place / "self_sampled.toml"
        if place.is_file():
            return place
        run, folder = self.trained("A4")["run"], self.place / "sampled"
        folder.mkdir(parents=True, exist_ok=True)
        needed = largest_remainder(self.traces, CELLS)

        def enough(sampled: Path) -> bool:
            found = Sampled(sampled, 0, "train")
            return all(found.count(cell) >= needed[cell] for cell in (TEXT_RIGHT, TEXT_WRONG))

        dataset = open_dataset(load_recipe(RECIPES / "a4.toml", self.changes)[0].data.train, "train", limit=self.traces)
        prompts = [t for t in (dataset[n] for n in range(len(dataset))) if t.category.startswith(MULTI_TURN)]
        facts = {"model_sha256": version_of(str(locate_trained(run, ("model",)))), "temperature": TEMPERATURE}
        rollouts = Rollouts(load_planner(run), 32, TEMPERATURE)
        sample_traces(rollouts, prompts, folder, facts, each=EACH, seed=self.seed, enough=enough)
        if not enough(folder):
            raise UserError(f"{folder}: found too few steps for {self.traces} traces; ask for fewer, or for more of a prompt")
        text = f'extends = "{SPEC}"\nname = "plan_refine_sampled_{self.traces}_{self.seed}"\n[build]\ntrain = {self.traces}\n'
        write_whole(place, f'{text}critiques = {{ sampled = "{folder.resolve()}" }}\n')
        return place

    def _file(self, name: str) -> Path:
        return self.kept / self._under / f"{name}.json"

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def flops_of(recipe: str, changes: Sequence[str]) -> tuple[int, float]:
    """(examples a step, operations of learning from one, as the mean over `COUNTED`) of a recipe."""
    loaded, source = load_recipe(recipe, list(changes))
    setup = prepare_run(loaded, source)
    numbers = setup.all_usable[:: max(1, len(setup.all_usable) // COUNTED)][:COUNTED]
    method: Any = setup.method
    return loaded.train.batch_size * loaded.train.accumulate, method.flops([setup.train[n] for n in numbers])


def table(folder: Path) -> tuple[dict[str, Any], str]:
    """All rows that are there: as data, and as Markdown. Differences are paired over the seeds that both rows have."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("traces-*/seed-*/A?.json"))]
    if not found:
        raise UserError(f"{folder}: found no row; run one first: python -m tests.bench.arms A0")
    if len(bases := {one["base"] for one in found}) > 1:
        raise UserError(f"{folder}: found rows of {len(bases)} bases; expected one, so move those of the others away")
    by: dict[tuple[int, str], dict[int, dict[str, Any]]] = {}
    for one in found:
        by.setdefault((one["traces"], one["row"]), {})[one["seed"]] = one
    data: dict[str, Any] = {"rows": [], "differences": []}
    for (traces, name), seeds in sorted(by.items()):
        arms = [parts_of(_results(one)) for one in seeds.values()]
        shares = {p: [summarise(parts[p])["overall"] for parts in arms if p in parts] for p in PARTS}
        said = {p: sum(values) / len(values) for p, values in shares.items() if values}
        spread = {p: max(values) - min(values) for p, values in shares.items() if values}
        data["rows"].append({"traces": traces, "row": name, "seeds": sorted(seeds), "correct": said, "spread": spread})
        data["differences"] += _against_a7(traces, name, seeds, by.get((traces, "A7"), {}))
    return data, _markdown(data)


def _against_a7(traces: int, name: str, seeds: Mapping[int, Any], claim: Mapping[int, Any]) -> list[dict[str, Any]]:
    """A7 as the model decides, minus every arm of this row."""
    both = sorted(set(seeds) & set(claim))
    found = []
    for arm in sorted({arm for seed in both for arm in seeds[seed]["marks"]}):
        if (name, arm) == ("A7", ADAPTIVE):
            continue
        have = [s for s in both if arm in seeds[s]["marks"]]
        parts = differences([_results(claim[s]) for s in have], [_results(seeds[s], arm) for s in have])
        found.append({"traces": traces, "row": name, "arm": arm, "seeds": have, "parts": parts})
    return found


def _marks(rows: Rows) -> list[list[int]]:
    """[right, demands met, demands] of each prompt, in their order."""
    return [[int(row["correct"]), *row["atoms"]] for row in sorted(rows, key=lambda row: str(row["filename"]))]


_asked = cache(bench_prompts)  # of all arms of all rows the same


def _results(one: Mapping[str, Any], arm: str = "") -> Rows:
    """The same as rows again; the prompts are always the same."""
    marks = one["marks"][arm or one["main"]]
    asked = _asked(one["pairs"])
    if len(asked) != len(marks):
        raise UserError(f"{one['row']}, seed {one['seed']}: found marks of {len(marks)} prompts; expected {len(asked)}")
    return [
        {"tag": a["tag"], "prompt": a["prompt"], "metadata": json.dumps(a), "correct": bool(right), "atoms": [met, demands]}
        for a, (right, met, demands) in zip(asked, marks, strict=True)
    ]


def _markdown(data: Mapping[str, Any]) -> str:
    rows = [["traces", "row", "seeds", *PARTS]]
    for one in data["rows"]:
        shares = [f"{100 * one['correct'][p]:.1f} ({100 * one['spread'][p]:.1f})" if p in one["correct"] else "" for p in PARTS]
        rows.append([str(one["traces"]), one["row"], ", ".join(map(str, one["seeds"])), *shares])
    gaps = [["traces", "A7 minus", "seeds", *PARTS]]
    for one in data["differences"]:
        told = [gap(one["parts"].get(p)) for p in PARTS]
        gaps.append([str(one["traces"]), f"{one['row']}, {one['arm']}", ", ".join(map(str, one["seeds"])), *told])
    titles = "Right pictures in percent (and between seeds)", "Points, with 95 % of draws paired over seeds and prompts"
    tables = [
        f"{title}:\n\n{markdown_table(some)}\n" for title, some in zip(titles, (rows, gaps), strict=True) if len(some) > 1
    ]
    return "\n".join(tables)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a row and prints its file, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=[*ROWS, "table"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--traces", type=int, default=20_000, help="1600, 6200, 20000 and 62213 make the curve over the data")
    parser.add_argument("--base", default="", help="default: as the recipes have it")
    parser.add_argument("--pairs", type=int, default=0, help="prompts of the bench; default 350")
    parser.add_argument("--judge", default="", help="who looks; default: as the recipes have it")
    parser.add_argument("--folder", type=Path, default=RUNS / "arms", help="for data sets and sampled plans")
    parser.add_argument("--kept", type=Path, default=KEPT, help="for what rows came to, and the table")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="A.B=VALUE", help="of all recipes")
    given = parser.parse_args(arguments)
    try:
        if given.row == "table":
            data, text = table(given.kept)
            write_whole(given.kept / "table.json", json.dumps(data, indent=1))
            write_whole(given.kept / "table.md", text)
            print(text)
            return 0
        experiment = Experiment(
            given.folder, given.kept, given.seed, given.traces, given.base, given.pairs, given.judge, tuple(given.changes)
        )
        found = experiment.row(given.row)
        print(json.dumps({key: found[key] for key in ("row", "seed", "traces", "run", "costs")}, indent=1))
    except UserError as error:
        print(f"arms: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
