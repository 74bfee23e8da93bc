"""The figures of a run's arms for people: in the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from editkit.evaluate.arms.figures import ALL
from editkit.evaluate.arms.inspector import INSPECTOR_ROWS

SHOWN = (ALL, "seen", "unseen", "multi")
TAGS, DEMANDS = "tag: ", "demands: "

Rows = list[list[str]]


def print_plan_refine(result: Mapping[str, Any]) -> None:
    """All tables, and where the files lie."""
    console = Console()
    for title, rows in tables_of(result):
        head, *body = rows
        table = Table(head[0], *(Column(name, justify="right") for name in head[1:]), title=title)
        for row in body:
            table.add_row(*row)
        console.print(table)
    console.print(f"{result['prompts']} prompts, {result['samples']} pictures each, seen by {result['judge']}")
    console.print(result["folder"], soft_wrap=True)


def as_markdown(result: Mapping[str, Any]) -> str:
    """The same for `docs/RESULTS.md`."""
    about = f"`{result['run']}`: {result['prompts']} prompts, {result['samples']} pictures each, seen by {result['judge']}."
    blocks = [about]
    blocks += [f"{title}:\n\n{markdown_table(rows)}" for title, rows in tables_of(result)]
    return "\n\n".join(blocks) + "\n"


def tables_of(result: Mapping[str, Any]) -> list[tuple[str, Rows]]:
    """(title, rows with the head first) of every table that there is something for."""
    found = [("Ways to a picture", _arms(result["arms"])), ("What a picture takes", _costs(result["arms"]))]
    for title, start in (("By category", TAGS), ("By number of demands", DEMANDS)):
        found.append((title, _parts(result["arms"], start)))
    found.append(("Paired differences", _differences(result)))
    if result["inspector"]:
        found.append(("The inspector", _inspector(result["inspector"])))
    if result["swaps"]:
        found.append(("What its steps cause", _swaps(result["swaps"])))
    return [(title, rows) for title, rows in found if len(rows) > 1]


def _arms(arms: Mapping[str, Any]) -> Rows:
    rows = [["way", "GenEval", "seen", "unseen", "multi", "demands"]]
    for name, found in arms.items():
        shares = (_share(found["parts"].get(part)) for part in SHOWN)
        rows.append([name, *shares, f"{100 * found['demands_met']:.1f}"])
    return rows


def _costs(arms: Mapping[str, Any]) -> Rows:
    rows = [["way", "pictures", "steps", "evaluations", "tokens", "GFLOPs"]]
    for name, found in arms.items():
        cost = found["cost"]
        facts = ", ".join(f"{key} {value}" for key, value in found["facts"].items() if isinstance(value, int))
        amounts = (f"{cost[key]:.1f}" for key in ("pictures", "steps", "evaluations", "tokens"))
        rows.append([f"{name} ({facts})" if facts else name, *amounts, f"{cost['flops'] / 1e9:.3f}"])
    return rows


def _parts(arms: Mapping[str, Any], start: str) -> Rows:
    names = list(dict.fromkeys(n for found in arms.values() for n in found["parts"] if n.startswith(start)))
    rows = [["way", *(name.removeprefix(start) for name in names)]]
    return rows + [[arm, *(_share(found["parts"].get(name)) for name in names)] for arm, found in arms.items()]


def _differences(result: Mapping[str, Any]) -> Rows:
    rows = [["points", ALL, "unseen", "multi"]]
    main = next(iter(result["arms"]))
    for name, found in result["differences"].items():
        rows.append([f"{main} - {name}", *(gap(found.get(part)) for part in (ALL, "unseen", "multi"))])
    against = result["against"]
    for name, found in against.get("arms", {}).items():
        rows.append([f"{main} - {name} of {against['run']}", *(gap(found.get(part)) for part in (ALL, "unseen", "multi"))])
    return rows


def _inspector(found: Mapping[str, Any]) -> Rows:
    rows = [["share", "%", "of"]]
    for name, words in INSPECTOR_ROWS.items():
        value = found[name]
        rows.append([words, "" if value is None else f"{100 * value:.1f}", str(found["counts"][name])])
    return rows


def _swaps(swaps: Mapping[str, Any]) -> Rows:
    rows = [["in its place", "trajectories", "GenEval", "demands", "points against its own"]]
    for name, found in swaps.items():
        if not found["trajectories"]:
            rows.append([name, "0", "", "", ""])
            continue
        parts = found["figures"]["parts"]
        met = f"{100 * found['figures']['demands_met']:.1f}"
        rows.append([name, str(found["trajectories"]), _share(parts.get(ALL)), met, gap(found.get("difference", {}).get(ALL))])
    return rows


def _share(part: Mapping[str, Any] | None) -> str:
    if part is None:
        return ""
    return f"{100 * part['correct']:.1f}" + ("" if part["stderr"] is None else f" ± {100 * part['stderr']:.1f}")


def gap(found: Mapping[str, float] | None) -> str:
    """A paired difference in points, with its interval; "" where there is none."""
    if found is None:
        return ""
    low, middle, high = (f"{100 * found[name]:+.1f}" for name in ("low", "difference", "high"))
    return f"{middle} ({low} to {high})"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the head first, as Markdown."""
    head, *body = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
