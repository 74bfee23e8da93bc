"""Printing scores for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

FIGURES = {
    "followed": "followed",
    "kept": "kept",
    "outside_l1": "outside L1",
    "outside_psnr": "outside PSNR",
    "clip_direction": "CLIP direction",
    "clip_image": "CLIP image",
    "n": "n",
}
BASELINES = {"do_nothing": "do nothing", "ignore_source": "ignore the source"}


def figure(name: str, value: Any) -> str:
    """A score as text: shares in percent, decibels with their unit."""
    if value is None:
        return "-"
    if name in ("accuracy", "worst"):  # of judges, where the second decimal is what is left to see
        return f"{100 * value:.2f} %"
    if name in ("followed", "kept", "attributes", "recall_at_1", "recall_at_5"):
        return f"{100 * value:.1f} %"
    if "psnr" in name.lower():
        return f"{value:.1f} dB"
    if name in ("n", "seconds"):
        return f"{value:g}"
    return f"{value:.3f}"


def print_scores(result: Mapping[str, Any]) -> None:
    """The scores of a run beside its baselines, then by kind of edit; other methods' scores as they are."""
    console = Console()
    scores = result["scores"]
    if "followed" not in scores:
        table = Table("score", "value")
        for name, value in scores.items():
            if not isinstance(value, Mapping):
                table.add_row(name, figure(name, value))
        console.print(table)
        return
    table = Table("", *FIGURES.values())
    rows = {"this run": scores, **{BASELINES[k]: v for k, v in result.get("baselines", {}).items()}}
    for label, row in rows.items():
        table.add_row(label, *(figure(k, row.get(k)) for k in FIGURES))
    console.print(table)
    kinds = Table("kind of edit", "followed", "kept", "outside L1", "n")
    for name, row in scores["by_category"].items():
        kinds.add_row(name, *(figure(k, row[k]) for k in ("followed", "kept", "outside_l1", "n")))
    console.print(kinds)
