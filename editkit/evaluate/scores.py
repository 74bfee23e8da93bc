"""Printing scores for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table

FIGURES = {
    "followed": "followed",
    "kept": "kept",
    "outside_l1": "outside L1",
    "outside_psnr": "outside PSNR",
    "clip_direction": "CLIP direction",
    "clip_image": "CLIP image",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "perceptual": "perceptual distance",
    "improved": "nearer than the source",
    "n": "n",
}
# Of judges, where the second decimal is what is left to see.
FINE_SHARES = {
    "accuracy", "worst", "categories", "colours", "counts", "overlap", "verdicts", "corrupted_categories", "corrupted_colours",
    "corrupted_counts", "corrupted_overlap",
}  # fmt: skip
SHARES = FINE_SHARES | {
    "followed", "kept", "improved", "attributes", "recall_at_1", "recall_at_5", "means_the_same", "exact", "most_frequent",
    "caught", "false_alarms", "captions_true", "answers_right", "fits_right", "well_formed", "stopped", "inspected", "rejected",
    "geneval", "geneval_stderr", "geneval_seen", "geneval_unseen", "multi", "demands_met",
}  # fmt: skip
BASELINES = {"do_nothing": "do nothing", "ignore_source": "ignore the source", "vae_ceiling": "VAE ceiling"}
# What a table by kind of edit has, and what stands above all others: as attributes are read, or as targets are compared.
BY_KIND = (("followed", "kept", "outside_l1", "n"), ("psnr", "ssim", "perceptual", "improved", "n"))


def figures_of(scores: Mapping[str, Any]) -> dict[str, str]:
    """The figures that an evaluation of edits has, with their labels, in order; {} of other methods' scores."""
    return {name: label for name, label in FIGURES.items() if name in scores} if kinds_of(scores) else {}


def kinds_of(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """The figures that are shown by kind of edit; () of other methods' scores."""
    return next((names for names in BY_KIND if all(name in scores for name in names)), ())


def figure(name: str, value: Any) -> str:
    """A score as text: shares in percent, decibels with their unit."""
    if value is None or value != value:  # NaN: nothing to take the mean of
        return "-"
    if name in FINE_SHARES:
        return f"{100 * value:.2f} %"
    if name in SHARES:
        return f"{100 * value:.1f} %"
    if "psnr" in name.lower():
        return f"{value:.1f} dB"
    if name in ("n", "seconds"):
        return f"{value:g}"
    return f"{value:.3f}"


def print_scores(result: Mapping[str, Any]) -> None:
    """The scores of a run beside its baselines, then by kind of edit; other methods' scores as they are."""
    console = Console()
    if "points" in result:
        _print_tradeoff(console, result["points"])
        return
    scores = result["scores"]
    if not figures_of(scores):
        table = Table("score", "value")
        for name, value in scores.items():
            if not isinstance(value, Mapping):
                table.add_row(name, figure(name, value))
        console.print(table)
        return
    columns = {"this run": scores, **{BASELINES.get(k, k): v for k, v in result.get("baselines", {}).items()}}
    table = Table("score", *(Column(label, justify="right") for label in columns))
    for name, label in figures_of(scores).items():
        table.add_row(label, *(figure(name, column.get(name)) for column in columns.values()))
    console.print(table)
    shown = kinds_of(scores)
    kinds = Table("kind of edit", *(Column(FIGURES[k], justify="right") for k in shown))
    for name, row in scores.get("by_category", {}).items():
        kinds.add_row(name or "all", *(figure(k, row.get(k)) for k in shown))
    if kinds.row_count:
        console.print(kinds)


def _print_tradeoff(console: Console, points: Sequence[Mapping[str, Any]]) -> None:
    figures = figures_of(points[0])
    table = Table(*(Column(label, justify="right") for label in ("image guidance", *figures.values())))
    for point in points:
        table.add_row(f"{point['image_guidance']:g}", *(figure(name, point[name]) for name in figures))
    console.print(table)
