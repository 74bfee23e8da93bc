"""`editkit eval RUN --bench plan_refine`: all ways to a picture with one run, its inspector, and what its steps cause.

    evaluation/plan_refine/scenes-350/ARM/    the pictures in GenEval's layout, results.jsonl, costs.jsonl; arm.json, the last
    .../inspector.json, swaps.json            of runs that plan
    .../summary.json, summary.md              all figures; the same as tables

What is whole is not made again, so a stopped bench goes on with the arm in which it was stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from editkit.errors import UserError
from editkit.evaluate.arms import inference
from editkit.evaluate.arms.figures import differences, figures_of
from editkit.evaluate.arms.inference import Arm, Task, tasks_of
from editkit.evaluate.arms.inspector import inspector_figures, sketches_of
from editkit.evaluate.arms.swaps import CRITIQUES, SKETCHES, with_critique, with_sketch
from editkit.evaluate.arms.tables import as_markdown
from editkit.evaluate.benches import BenchOptions
from editkit.evaluate.benches.against import SUMMARY, refuse_other_judge
from editkit.evaluate.benches.drawing import first_change, load_to_draw, sha256_of
from editkit.evaluate.benches.geneval import (
    Detector,
    check_classes,
    read_results,
    score_folder,
    write_prompt_folders,
    write_results,
    write_sample,
)
from editkit.evaluate.benches.geneval_run import LAB_PROMPTS
from editkit.evaluate.benches.geneval_summary import Rows
from editkit.evaluate.benches.judge_file import load_detector
from editkit.evaluate.benches.scene_bench import NO_DETECTORS, RESULTS, SEED
from editkit.evaluate.benches.scene_reader import READER
from editkit.evaluate.target import find_target
from editkit.files import write_whole
from editkit.lab.scene_prompts import TAGS, prompts
from editkit.models.bagel.cost import Cost
from editkit.models.generator import BagelGenerator
from editkit.models.rollouts import Rollout, Rollouts
from editkit.progress import progress
from editkit.runs import find_run, hold

FOLDER, ARM, COSTS = "plan_refine", "arm.json", "costs.jsonl"
ADAPTIVE, DIRECT = "adaptive", "direct"
FORCED = (1, 2, 3, 5)  # pictures
WIDTH = 4  # candidates of a step of the search, and of "best-direct"
BATCH = 32  # trajectories at once


def evaluate(run: str, options: BenchOptions) -> dict[str, Any]:
    """Draws all that is missing, looks at it, and sums up.

    Args:
        run: a BAGEL that draws; one that was trained to plan has all arms, another one those that draw at once.
        options: of the bench; `against` names a run of which this bench is there, and which gives "direct-equal" its budget
            where this run does not plan.

    Returns:
        {"bench", "run", "folder", "judge", "samples", "prompts", "arms", "inspector", "swaps", "differences", "against"}.

    Raises:
        UserError: a model or a judge that cannot be used; what is there was made otherwise; another process works there.
    """
    if options.prompts:
        raise UserError("--prompts: found it with --bench plan_refine, which needs to know the scenes; use --pairs")
    target = find_target(run)
    named = target.recipe.evaluate.judge if target.recipe else ""
    detector = load_detector(options.judge or (READER if named in NO_DETECTORS else named))
    asked = prompts(SEED, "test", -(-(options.pairs or LAB_PROMPTS) // len(TAGS)))
    check_classes([line for _, line in asked], detector, "the lab's prompts")
    seed = target.recipe.evaluate.seed if target.recipe else 0
    name = f"scenes-{options.pairs or LAB_PROMPTS}"
    model, facts = _load(run)
    facts |= {"judge": detector.name, "seed": seed, "prompts_sha256": sha256_of([line for _, line in asked])}
    samples = options.samples or 1
    folder = target.place / "evaluation" / FOLDER / name
    other = _earlier(options.against, name) if options.against else None
    if other is not None:
        refuse_other_judge(options.against, other["judge"], detector.name)
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / ".lock", f"{folder}: another process works on this bench; wait for it, or stop it first"):
        bench = Bench(Rollouts(model, BATCH), tasks_of(asked, samples, seed), detector, folder, {**facts, "samples": samples})
        result = _run(bench, model.plans, other)
        stated = {"bench": FOLDER, "run": run, "folder": str(folder), "judge": detector.name, "samples": samples}
        result = {**stated, "prompts": len(asked), **result}
        write_whole(folder / SUMMARY, json.dumps(result, indent=1))
        write_whole(folder / "summary.md", as_markdown(result))
    return result


class Bench:
    """The arms of one run in a folder.

    Args:
        rollouts: of the model.
        tasks: all pictures that are wanted.
        detector: what looks.
        folder: of the bench.
        facts: all that the pictures depend on.
    """

    def __init__(
        self, rollouts: Rollouts, tasks: Sequence[Task], detector: Detector, folder: Path, facts: Mapping[str, Any]
    ) -> None:
        self.rollouts, self.tasks, self.detector, self.folder = rollouts, tasks, detector, folder
        self._facts = facts
        self._made: dict[str, Arm] = {}

    def arm(self, name: str, make: Callable[[], Arm], tasks: Sequence[Task] | None = None) -> dict[str, Any]:
        """The figures of an arm, which is made where it is not there: "facts" and those of `figures_of`.

        Args:
            name: of its folder.
            make: draws it.
            tasks: those that it draws; None = all.

        Raises:
            UserError: it is there, and was made otherwise.
        """
        path = self.folder / name / ARM
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if changed := first_change(found["made_with"], self._facts):
                raise UserError(f"{path.parent}: was made with {changed}; move {self.folder} away")
            return found["figures"]
        shutil.rmtree(path.parent, ignore_errors=True)
        made = make()
        self._made[name] = made
        figures = {"facts": made.facts, **self._scored(path.parent, made, self.tasks if tasks is None else tasks)}
        write_whole(path, json.dumps({"made_with": self._facts, "figures": figures}, indent=1))
        return figures

    def _scored(self, folder: Path, made: Arm, tasks: Sequence[Task]) -> dict[str, Any]:
        asked = {task.number: task.asked for task in tasks}
        places = dict(zip(asked, write_prompt_folders(folder, list(asked.values())), strict=True))
        for task, picture in zip(tasks, made.pictures, strict=True):
            write_sample(places[task.number], task.sample, picture)
        rows = score_folder(folder, self.detector)
        write_results(folder / RESULTS, rows)
        write_whole(folder / COSTS, "".join(json.dumps(asdict(cost)) + "\n" for cost in made.costs))
        return figures_of(rows, made.costs)

    def rows(self, name: str) -> Rows:
        """The results of an arm that is there."""
        return read_results(self.folder / name / RESULTS)

    @cached_property
    def trajectories(self) -> list[Rollout]:
        """Of the adaptive arm; made again, and the same, where it was made in an earlier process."""
        made = self._made.get(ADAPTIVE) or inference.adaptive(self.rollouts, self.tasks)
        return made.rollouts

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What is in a JSON file of the folder, made where it is not there."""
        path = self.folder / name
        if not path.is_file():
            write_whole(path, json.dumps(make(), indent=1))
        return json.loads(path.read_text(encoding="utf-8"))


def _run(bench: Bench, plans: bool, other: Mapping[str, Any] | None) -> dict[str, Any]:
    arms = {}
    ways = _planning(bench) if plans else _at_once(bench, other)
    with progress(len(ways), "arms") as bar:
        for name, make in ways.items():
            arms[name] = bench.arm(name, make)
            bar.advance()
    found: dict[str, Any] = {"arms": arms, "inspector": {}, "swaps": {}}
    if plans:
        found["inspector"] = bench.once("inspector.json", lambda: _inspected(bench))
        found["swaps"] = bench.once("swaps.json", lambda: _swapped(bench))
    main = ADAPTIVE if plans else DIRECT
    ours = bench.rows(main)
    found["differences"] = {name: differences([ours], [bench.rows(name)]) for name in arms if name != main}
    found["against"] = {}
    if other is not None:
        theirs = {name: differences([ours], [read_results(Path(other["folder"]) / name / RESULTS)]) for name in other["arms"]}
        found["against"] = {"run": other["run"], "of": main, "arms": theirs}
    return found


def _planning(bench: Bench) -> dict[str, Callable[[], Arm]]:
    rollouts, tasks, detector = bench.rollouts, bench.tasks, bench.detector
    asked = [task.asked["prompt"] for task in tasks]

    def budget() -> float:
        return bench.arm(ADAPTIVE, lambda: inference.adaptive(rollouts, tasks))["cost"]["flops"]

    def candidates() -> int:
        return inference.candidates_for(rollouts, tasks, budget())

    forced = {f"forced-{n}": lambda n=n: inference.forced(rollouts, tasks, n) for n in FORCED}
    return {
        ADAPTIVE: lambda: inference.adaptive(rollouts, tasks),
        DIRECT: lambda: inference.direct(rollouts, tasks, rollouts.drawing.steps),
        "direct-equal": lambda: inference.direct(rollouts, tasks, rollouts.steps_for(asked, budget())),
        "no-rejection": lambda: inference.no_rejection(rollouts, tasks),
        "oracle": lambda: inference.oracle(rollouts, tasks, detector),
        **forced,
        "best-own": lambda: inference.best_of(rollouts, tasks, candidates()),
        "best-exact": lambda: inference.best_of(rollouts, tasks, candidates(), detector),
        "search": lambda: inference.search(rollouts, tasks, WIDTH),
    }


def _at_once(bench: Bench, other: Mapping[str, Any] | None) -> dict[str, Callable[[], Arm]]:
    rollouts, tasks, detector = bench.rollouts, bench.tasks, bench.detector
    ways: dict[str, Callable[[], Arm]] = {DIRECT: lambda: inference.direct(rollouts, tasks, rollouts.drawing.steps)}
    budget = other["arms"].get(ADAPTIVE, {}).get("cost", {}).get("flops") if other is not None else None
    if budget:
        asked = [task.asked["prompt"] for task in tasks]
        ways["direct-equal"] = lambda: inference.direct(rollouts, tasks, rollouts.steps_for(asked, budget))
    ways["best-direct"] = lambda: inference.best_direct(rollouts, tasks, WIDTH, detector)
    return ways


def _inspected(bench: Bench) -> dict[str, Any]:
    pairs = zip(bench.trajectories, bench.tasks, strict=True)
    return inspector_figures([sketches_of(made, task, bench.detector) for made, task in pairs])


def _swapped(bench: Bench) -> dict[str, Any]:
    """What each swap comes to, against its control: the same trajectories, gone on from in the same way."""
    found: dict[str, Any] = {}
    for kind, ways, swap in (("sketch", SKETCHES, with_sketch), ("critique", CRITIQUES, with_critique)):
        for what in ways:
            name = f"swap-{kind}-{what}"
            numbers, arm = swap(bench.rollouts, bench.tasks, bench.trajectories, what)
            if not numbers:
                found[f"{kind}: {what}"] = {"trajectories": 0}
                continue
            tasks = [replace(bench.tasks[i], number=n, sample=0) for n, i in enumerate(numbers)]  # some prompts have fewer
            figures = bench.arm(name, lambda arm=arm: arm, tasks)
            said = {"trajectories": len(numbers), "figures": figures}
            if what != "own":
                said["difference"] = differences([bench.rows(name)], [bench.rows(f"swap-{kind}-own")])
            found[f"{kind}: {what}"] = said
    return found


def _load(run: str) -> tuple[BagelGenerator, dict[str, Any]]:
    model, facts = load_to_draw(run)
    if not isinstance(model, BagelGenerator):
        raise UserError(f"{run}: found a Stable Diffusion; --bench plan_refine needs a BAGEL, such as lab:tiny-bagel")
    return model, facts


def _earlier(against: str, name: str) -> dict[str, Any]:
    path = find_run(against) / "evaluation" / FOLDER / name / SUMMARY
    if not path.is_file():
        raise UserError(f"{path}: no such file; score it first: editkit eval {against} --bench plan_refine")
    return json.loads(path.read_text(encoding="utf-8"))


def costs_of(folder: Path) -> list[Cost]:
    """What each picture of an arm cost."""
    lines = (folder / COSTS).read_text(encoding="utf-8").splitlines()
    return [Cost(**json.loads(line)) for line in lines]
