"""Runs beside each other: what differs in their recipes, what they scored, what they cost."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from editkit.errors import UserError
from editkit.evaluate.charts import comparison_chart
from editkit.evaluate.scores import figure
from editkit.runs import RUNS, find_run

NAMES = ("name", "description")  # keys that differ without meaning


def compare(runs: Sequence[str]) -> dict[str, Any]:
    """Compares two or more runs.

    Returns:
        {"runs": [...], "recipe": {key: [value a run]}, "scores": {name: [...]}, "cost": {name: [...]}, "benches": {name: paired
        differences from the first run, where both were scored}, "chart": path}.
    """
    folders = [find_run(r) for r in runs]
    if len(folders) < 2:
        raise UserError(f"found {len(folders)} run; expected two or more to compare")
    recipes = [dict(_flat(tomllib.loads((f / "recipe.toml").read_text(encoding="utf-8")))) for f in folders]
    keys = sorted({k for r in recipes for k in r if k not in NAMES})
    differing = {k: [r.get(k) for r in recipes] for k in keys if len({json.dumps(r.get(k)) for r in recipes}) > 1}
    facts = [json.loads((f / "run.json").read_text(encoding="utf-8")) for f in folders]
    scores = [_scores(f) for f in folders]
    names = list(dict.fromkeys(n for s in scores for n, v in s.items() if isinstance(v, (int, float))))
    chart = RUNS / f"compare-{'-'.join(f.name[-6:] for f in folders)}.png"
    comparison_chart({f.name: f / "metrics.jsonl" for f in folders}, chart)
    return {
        "runs": [f.name for f in folders],
        "recipe": differing,
        "scores": {n: [s.get(n) for s in scores] for n in names},
        "cost": {
            "minutes": [round(f.get("seconds", 0) / 60, 1) for f in facts],
            "samples": [f.get("samples") for f in facts],
            "state": [f["state"] for f in facts],
            "machine": [f["machine"]["name"] for f in facts],
            "data": [f["data"]["sha256"][:12] for f in facts],
        },
        "benches": _benches(dict(zip([f.name for f in folders], folders, strict=True))),
        "chart": str(chart),
    }


def print_comparison(result: Mapping[str, Any]) -> None:
    """The comparison as tables."""
    console = Console()
    for title in ("recipe", "scores", "cost"):
        table = Table(title, *result["runs"])
        for key, values in result[title].items():
            shown = [figure(key, v) if title == "scores" else ("-" if v is None else str(v)) for v in values]
            table.add_row(key, *shown)
        console.print(table)
    for bench, found in result["benches"].items():
        for one in found:
            console.print(f"{bench}: {_in_words(one)}", soft_wrap=True)
    console.print(f"curves: {result['chart']}", soft_wrap=True)


def _benches(folders: Mapping[str, Path]) -> dict[str, Any]:
    if not any(folder.glob("evaluation/*/*/results.jsonl") for folder in folders.values()):
        return {}
    from editkit.evaluate.benches.against import compare_runs

    return compare_runs(folders)


def _in_words(found: Mapping[str, Any]) -> str:
    from editkit.evaluate.benches.against import difference_line

    return difference_line(found["of"], found)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _scores(folder: Path) -> dict[str, Any]:
    path = folder / "evaluation" / "scores.json"
    return json.loads(path.read_text(encoding="utf-8"))["scores"] if path.is_file() else {}
