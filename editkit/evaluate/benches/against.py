"""One model against another on a bench, prompt by prompt: where the other's results are, and the difference in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editkit.errors import UserError
from editkit.evaluate.benches.geneval import read_results
from editkit.evaluate.benches.geneval_summary import Rows, compare
from editkit.evaluate.benches.scene_bench import RESULTS, official_rows
from editkit.runs import find_run

SUMMARY = "summary.json"  # beside the results: the figures, and who looked


@dataclass(frozen=True, slots=True)
class Earlier:
    """Results to compare with.

    Attributes:
        name: whose they are.
        rows: one a picture.
        judge: who looked; "" where that is not known.
    """

    name: str
    rows: Rows
    judge: str


def find_results(name: str, bench: str) -> Earlier:
    """Results to compare with.

    Args:
        name: a run that was scored on the same bench, a folder with results, or their file.
        bench: where a run has them, below `evaluation/`: "geneval/scenes-350".

    Raises:
        UserError: there are none.
    """
    path = Path(name)
    if path.is_dir() and (path / RESULTS).is_file():
        path /= RESULTS
    elif not path.is_file():
        folder = path if path.is_dir() and not (path / "run.json").is_file() else find_run(name)
        path = folder / "evaluation" / bench / RESULTS
        if not path.is_file():
            kind = bench.partition("/")[0]
            raise UserError(f"{path}: no such file; score it first: editkit eval {name} --bench {kind}")
    return Earlier(name, read_results(path), _judge_of(path))


def check_judge(against: Earlier | None, judge: str) -> None:
    """Refuses to compare what two have judged; of results that do not say who did, the user has to know."""
    if against is not None and against.judge:
        refuse_other_judge(against.name, against.judge, judge)


def refuse_other_judge(name: str, theirs: str, ours: str) -> None:
    """Raises UserError where `name` was judged by another one than we are."""
    if theirs != ours:
        raise UserError(f"{name}: was judged by {theirs}, and this would be by {ours}; name the same one for both: --judge")


def difference(rows: Rows, against: Earlier) -> dict[str, Any]:
    """The paired difference overall: "run", the other one, and what `compare` returns."""
    ours, theirs = (official_rows(some) or some for some in (rows, against.rows))
    return {"run": against.name, **compare(ours, theirs)}


def difference_line(run: str, found: Mapping[str, Any]) -> str:
    """A paired difference in words."""
    low, middle, high = (f"{100 * found[name]:+.2f}" for name in ("low", "difference", "high"))
    return f"{run} against {found['run']}: {middle} points overall, 95 % of paired draws {low} to {high}, p = {found['p']:.3f}"


def compare_runs(folders: Mapping[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Paired differences of runs that were asked the same and judged by the same.

    Args:
        folders: name -> run folder; the others are compared with the first.

    Returns:
        Bench -> for each other run its name, "of", and `difference` from the first.
    """
    scored = {name: _scored(name, folder) for name, folder in folders.items()}
    first, *others = folders
    found: dict[str, list[dict[str, Any]]] = {}
    for bench, theirs in scored[first].items():
        for other in others:
            ours = scored[other].get(bench)
            if ours is None or ours.judge != theirs.judge:
                continue
            try:
                found.setdefault(bench, []).append({"of": other, **difference(ours.rows, theirs)})
            except UserError:
                continue  # prompt files of one name, and of other prompts
    return {bench: those for bench, those in found.items() if those}


def _scored(name: str, run: Path) -> dict[str, Earlier]:
    """Bench -> results, of all benches that a run was scored on."""
    found = {}
    for path in sorted((run / "evaluation").glob(f"*/*/{RESULTS}")):
        if (path.parent / SUMMARY).is_file():
            found[path.parent.relative_to(run / "evaluation").as_posix()] = Earlier(name, read_results(path), _judge_of(path))
    return found


def _judge_of(results: Path) -> str:
    path = results.parent / SUMMARY
    return json.loads(path.read_text(encoding="utf-8"))["judge"] if path.is_file() else ""
