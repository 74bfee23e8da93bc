"""From GenEval's results to its figures, with how sure they are: standard errors, and a paired bootstrap between two models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from editkit.errors import UserError
from editkit.evaluate.benches.geneval_rules import TAGS

DRAWS = 10_000  # of the bootstrap

Rows = Sequence[Mapping[str, Any]]


def summarise(rows: Rows) -> dict[str, Any]:
    """The official summary.

    Returns:
        `overall`, the unweighted mean over the tags of the share of pictures that are right, in [0, 1], with its `stderr`;
        `images` and `prompts`, the shares of all pictures, and of all prompts with at least one, that are right; `tags`, for
        each tag its share, standard error and numbers; `atoms`, the share of single demands met, where the rows have them.

    The pictures of a prompt are alike, so errors are taken over prompts: sd(means of the prompts) / sqrt(number of prompts).
    """
    if not rows:
        raise UserError("found no result to summarise; expected one row a picture")
    tags: dict[str, dict[str, Any]] = {}
    for tag, prompts in _by_prompt(rows).items():
        right = np.concatenate(list(prompts.values()))
        tags[tag] = {
            "correct": float(right.mean()),
            "stderr": _stderr([float(v.mean()) for v in prompts.values()]),
            "images": len(right),
            "prompts": len(prompts),
        }
    groups = [v for prompts in _by_prompt(rows).values() for v in prompts.values()]
    errors = [t["stderr"] for t in tags.values()]
    summary: dict[str, Any] = {
        "overall": float(np.mean([t["correct"] for t in tags.values()])),
        "stderr": math.sqrt(sum(e**2 for e in errors)) / len(errors),
        "images": float(np.mean([bool(r["correct"]) for r in rows])),
        "prompts": float(np.mean([bool(v.any()) for v in groups])),
        "tags": tags,
    }
    if all("atoms" in r for r in rows):
        summary["atoms"] = sum(r["atoms"][0] for r in rows) / sum(r["atoms"][1] for r in rows)
    return summary


def compare(ours: Rows, theirs: Rows, *, seed: int = 0, draws: int = DRAWS) -> dict[str, float]:
    """How much better `ours` is overall, by a bootstrap paired over prompts and drawn within each tag.

    Returns:
        `difference` of the overall shares, `low` and `high` of its 95 % interval (percentiles), and `p`, the two-sided share of
        draws on the other side of zero.

    Raises:
        UserError: the two were not asked the same prompts.
    """
    a, b = _by_prompt(ours), _by_prompt(theirs)
    if {t: set(p) for t, p in a.items()} != {t: set(p) for t, p in b.items()}:
        raise UserError("found results on other prompts; a paired comparison needs both models on the same prompt file")
    rng = np.random.default_rng(seed)
    drawn, difference = np.zeros(draws), 0.0
    for tag, prompts in a.items():
        gaps_P = np.array([prompts[name].mean() - b[tag][name].mean() for name in prompts])
        difference += gaps_P.mean() / len(a)
        # one tag at a time and in float64: draws x prompts is 1 M numbers for 100 prompts
        drawn += gaps_P[rng.integers(0, len(gaps_P), (draws, len(gaps_P)))].mean(axis=1) / len(a)
    return _interval(difference, drawn)


def compare_seeds(ours: Sequence[Rows], theirs: Sequence[Rows], *, seed: int = 0, draws: int = DRAWS) -> dict[str, float]:
    """The same over several trainings of each side: a bootstrap over the trainings, paired in their order, and over prompts.

    Args:
        ours, theirs: results of each training.
        seed: of the draws.
        draws: how many.

    Returns:
        See `compare`; and "seeds", how many trainings each side has. Of one training, it is drawn over prompts alone.

    Raises:
        UserError: the two have not as many trainings, or were not asked the same prompts.
    """
    if len(ours) != len(theirs) or not ours:
        raise UserError(f"found {len(ours)} trainings against {len(theirs)}; a paired comparison needs as many of both")
    sides = [[_by_prompt(rows) for rows in side] for side in (ours, theirs)]
    asked = {tag: list(prompts) for tag, prompts in sides[0][0].items()}
    if any({t: set(p) for t, p in one.items()} != {t: set(p) for t, p in asked.items()} for side in sides for one in side):
        raise UserError("found results on other prompts; a paired comparison needs both models on the same prompt file")
    rng = np.random.default_rng(seed)
    count = len(ours)
    # the trainings of a draw are the same for all tags, which they made together
    weight_DS = rng.multinomial(count, [1 / count] * count, draws) / count
    drawn_D, difference = np.zeros(draws), 0.0
    for tag, names in asked.items():
        means_2SP = [[[one[tag][name].mean() for name in names] for one in side] for side in sides]
        gaps_SP = np.array(means_2SP[0]) - np.array(means_2SP[1])
        difference += gaps_SP.mean() / len(asked)
        weight_DP = rng.multinomial(len(names), [1 / len(names)] * len(names), draws) / len(names)
        drawn_D += ((weight_DS @ gaps_SP) * weight_DP).sum(axis=1) / len(asked)
    return {**_interval(difference, drawn_D), "seeds": count}


def _interval(difference: float, drawn_D: np.ndarray) -> dict[str, float]:
    """See `compare`."""
    low, high = np.percentile(drawn_D, [2.5, 97.5])
    other_side = 2 * min(float((drawn_D <= 0).mean()), float((drawn_D >= 0).mean()))
    return {"difference": float(difference), "low": float(low), "high": float(high), "p": min(1.0, other_side)}


def print_summary(summary: Mapping[str, Any], detector: str, console: Console | None = None) -> None:
    """The figures in percent with their standard errors, under the name of what looked."""
    table = Table(
        "GenEval", *(Column(c, justify="right") for c in ("correct", "prompts", "images")), title=f"seen by {detector}"
    )
    order = [*(t for t in TAGS if t in summary["tags"]), *sorted(set(summary["tags"]) - set(TAGS))]
    for tag in order:
        found = summary["tags"][tag]
        table.add_row(tag, _percent(found["correct"], found["stderr"]), str(found["prompts"]), str(found["images"]))
    table.add_row("overall (mean of the tags)", _percent(summary["overall"], summary["stderr"]), "", "")
    table.add_row("pictures that are right", f"{100 * summary['images']:.2f} %", "", "")
    table.add_row("prompts with a right picture", f"{100 * summary['prompts']:.2f} %", "", "")
    if "atoms" in summary:
        table.add_row("demands met", f"{100 * summary['atoms']:.2f} %", "", "")
    (console or Console()).print(table)


def _by_prompt(rows: Rows) -> dict[str, dict[str, np.ndarray]]:
    """Tag -> prompt -> which of its pictures are right; a prompt is told by its folder too, for a file may ask one twice.

    Where the rows have a "score" in [0, 1], as of benches that know more than right and wrong, it stands for that.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        # the official rows name pictures by whole paths, of which NNNNN/samples/NNNN.png is the same for every model
        parts = PurePosixPath(str(row.get("filename", "")).replace("\\", "/")).parts
        name = f"{parts[-3] if len(parts) > 2 and parts[-3].isdecimal() else ''} {row['prompt']}"
        found.setdefault(row["tag"], {}).setdefault(name, []).append(row.get("score", bool(row["correct"])))
    return {tag: {name: np.array(right) for name, right in prompts.items()} for tag, prompts in found.items()}


def _stderr(means: Sequence[float]) -> float:
    """NaN for one prompt, of which nobody can say how it varies."""
    return float(np.std(means, ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan


def _percent(share: float, error: float) -> str:
    return f"{100 * share:.2f} % ± {100 * error:.2f}"
