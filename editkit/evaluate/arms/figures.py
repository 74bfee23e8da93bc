"""From the results of arms to figures: by composition, category and number of demands, with costs and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editkit.evaluate.benches import without_nan
from editkit.evaluate.benches.geneval_summary import Rows, compare_seeds, summarise
from editkit.evaluate.benches.scene_bench import MULTI, by_composition, official_rows
from editkit.models.bagel.cost import Cost

ALL = "all"


def parts_of(rows: Rows) -> dict[str, Rows]:
    """Results in parts: "all" of GenEval's categories, these "seen" and "unseen", each category, each number of demands."""
    official = official_rows(rows)
    tags = {row["tag"]: [r for r in rows if r["tag"] == row["tag"]] for row in rows}
    demands = sorted({row["atoms"][1] for row in rows})
    parts: dict[str, Rows] = {ALL: official, **by_composition(official), MULTI: []}
    parts |= {f"tag: {tag}": those for tag, those in tags.items() if tag != MULTI}
    parts[MULTI] = tags.get(MULTI, [])
    parts |= {f"demands: {n}": [r for r in rows if r["atoms"][1] == n] for n in demands}
    return {name: some for name, some in parts.items() if some}


def figures_of(rows: Rows, costs: Sequence[Cost]) -> dict[str, Any]:
    """What an arm comes to.

    Returns:
        "parts": for each of `parts_of`, "correct" (the mean of the categories in it) with "stderr" and "pictures"; of numbers
        of demands the share of all pictures. "demands_met": of all. "cost": means a picture of what `Cost` counts, and
        "flops", all operations.
    """
    parts = {}
    for name, some in parts_of(rows).items():
        found = summarise([{**row, "tag": ""} for row in some] if name.startswith("demands") else some)
        parts[name] = {"correct": found["overall"], "stderr": found["stderr"], "pictures": len(some)}
    names = ("reading", "writing", "drawing", "looking", "flops", "steps", "evaluations", "pictures", "tokens")
    cost = {name: sum(getattr(c, name) for c in costs) / len(costs) for name in names}
    return without_nan({"parts": parts, "demands_met": summarise(rows)["atoms"], "cost": cost})


def differences(ours: Sequence[Rows], theirs: Sequence[Rows]) -> dict[str, Any]:
    """Paired differences, a training of ours with one of theirs, in every part that both have; see `compare_seeds`."""
    mine, others = [parts_of(rows) for rows in ours], [parts_of(rows) for rows in theirs]
    names = [n for n in mine[0] if all(n in parts for parts in (*mine, *others))]

    def of(parts: Sequence[Mapping[str, Rows]], name: str) -> list[Rows]:
        whole = name.startswith("demands")  # as in `figures_of`: pictures count, and not categories
        return [[{**row, "tag": ""} for row in p[name]] if whole else p[name] for p in parts]

    return {name: compare_seeds(of(mine, name), of(others, name)) for name in names}
