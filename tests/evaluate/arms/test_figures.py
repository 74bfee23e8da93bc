"""Figures in parts, and paired differences over prompts and trainings."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from editkit.errors import UserError
from editkit.evaluate.arms.figures import differences, figures_of, parts_of
from editkit.evaluate.benches.geneval_summary import compare, compare_seeds
from editkit.evaluate.benches.scene_bench import bench_prompts, by_composition
from editkit.models.bagel.cost import Cost

ASKED = bench_prompts(140)


def rows(seed: int, share: float, asked: list[dict[str, Any]] = ASKED) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for i, line in enumerate(asked):
        right = bool(rng.random() < share)
        demands = sum(1 + ("color" in e) + ("position" in e) for e in line["include"])
        found.append({
            "filename": f"{i:05d}/samples/0000.png", "tag": line["tag"], "prompt": line["prompt"], "correct": right,
            "metadata": json.dumps(line), "atoms": [demands if right else 0, demands],
        })  # fmt: skip
    return found


def test_parts_are_those_that_they_are_called() -> None:
    some = rows(0, 0.5)
    parts = parts_of(some)
    assert {r["tag"] for r in parts["multi"]} == {"multi"}
    assert "multi" not in {r["tag"] for r in parts["all"]}
    assert len(parts["seen"]) + len(parts["unseen"]) == len(parts["all"])
    assert parts["unseen"] == by_composition(parts["all"])["unseen"]
    assert sum(len(v) for n, v in parts.items() if n.startswith("demands")) == len(some)
    assert all(r["atoms"][1] == 3 for r in parts["demands: 3"])


def test_figures_are_means_of_results_and_costs() -> None:
    some = rows(1, 0.5)
    found = figures_of(some, [Cost(drawing=2, steps=4), Cost(drawing=4, writing=2)])
    assert found["cost"]["flops"] == 4
    assert found["cost"]["steps"] == 2
    three = [r["correct"] for r in some if r["atoms"][1] == 3]
    assert found["parts"]["demands: 3"]["correct"] == pytest.approx(np.mean(three))
    tags = [found["parts"][n]["correct"] for n in found["parts"] if n.startswith("tag: ")]
    assert found["parts"]["all"]["correct"] == pytest.approx(np.mean(tags))


def test_of_one_training_the_bootstrap_is_that_over_prompts() -> None:
    ours, theirs = rows(2, 0.7), rows(3, 0.4)
    one, plain = compare_seeds([ours], [theirs]), compare(ours, theirs)
    assert one["difference"] == pytest.approx(plain["difference"])
    assert one["low"] == pytest.approx(plain["low"], abs=0.02)
    assert one["high"] == pytest.approx(plain["high"], abs=0.02)
    assert one["seeds"] == 1


def test_trainings_that_disagree_make_it_less_sure() -> None:
    """The mean gap is the same, and that of each training is not."""
    good, bad, theirs = rows(4, 1.0), rows(4, 0.0), rows(4, 0.5)
    same = compare_seeds([rows(5, 0.5), rows(6, 0.5)], [theirs, theirs])
    mixed = compare_seeds([good, bad], [theirs, theirs])
    assert mixed["high"] - mixed["low"] > 2 * (same["high"] - same["low"])
    assert mixed["low"] < 0 < mixed["high"]
    every = compare_seeds([good, good], [bad, bad])
    assert [every[n] for n in ("difference", "low", "high", "p")] == pytest.approx([1.0, 1.0, 1.0, 0.0])


def test_only_what_was_asked_the_same_is_compared() -> None:
    with pytest.raises(UserError, match="2 trainings against 1"):
        compare_seeds([rows(0, 1.0), rows(1, 1.0)], [rows(0, 0.0)])
    with pytest.raises(UserError, match="other prompts"):
        compare_seeds([rows(0, 1.0)], [rows(0, 0.0, ASKED[:-1])])


def test_differences_are_told_in_every_part() -> None:
    found = differences([rows(2, 1.0)], [rows(2, 0.0)])
    assert {"all", "seen", "unseen", "multi", "tag: position", "demands: 1"} <= set(found)
    assert [v["difference"] for v in found.values()] == pytest.approx([1.0] * len(found))
