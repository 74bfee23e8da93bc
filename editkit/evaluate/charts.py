"""Curves of a run, drawn by matplotlib."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#5b6472"
COLOURS = ("#3b6fd4", "#d9662c", "#2f9a68", "#8a4fd0", "#b0873a")
SMOOTHING = 0.9


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a line cut short by a kill is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def smooth(values: Sequence[float]) -> list[float]:
    """An exponential average that starts without bias."""
    average, weight, found = 0.0, 0.0, []
    for value in values:
        average = SMOOTHING * average + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        found.append(average / weight)
    return found


def line_chart(
    title: str,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    levels: Mapping[str, float] | None = None,
    raw: tuple[Sequence[float], Sequence[float]] | None = None,
    log: bool = False,
) -> str:
    """A small chart as SVG text that is readable on light and dark paper.

    Args:
        title: what is drawn.
        curves: name -> (steps, values).
        levels: name -> value of a horizontal dashed line, for baselines.
        raw: unsmoothed points behind the first curve.
        log: logarithmic values.
    """
    figure = Figure(figsize=(4.6, 2.7))
    axes = figure.add_subplot()
    _style(axes, title)
    if raw is not None:
        axes.plot(*raw, color=COLOURS[0], alpha=0.25, linewidth=0.8)
    for colour, (name, (steps, values)) in zip(COLOURS, curves.items(), strict=False):
        axes.plot(
            steps,
            values,
            color=colour,
            linewidth=1.6,
            label=name,
            marker="o" if len(steps) < 12 else None,
            markersize=3,
        )
    for colour, (name, value) in zip(COLOURS, (levels or {}).items(), strict=False):
        axes.axhline(value, color=colour, linestyle=":", linewidth=1.2, label=name)
    if log:
        axes.set_yscale("log")
    if len(curves) + len(levels or {}) > 1:
        axes.legend(frameon=False, fontsize=7, labelcolor=INK)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "editkit"}):
        figure.savefig(stream, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def comparison_chart(metrics: Mapping[str, Path], path: Path) -> None:
    """Loss, and followed and kept where they were measured, of several runs in one picture."""
    figure = Figure(figsize=(12, 3.6))
    panels = figure.subplots(1, 3)
    for axes, title in zip(panels, ("loss (smoothed)", "followed", "kept"), strict=True):
        _style(axes, title)
    for colour, (name, file) in zip(COLOURS * len(metrics), metrics.items(), strict=False):
        lines = read_metrics(file)
        train = [x for x in lines if x["kind"] == "train"]
        panels[0].plot([x["step"] for x in train], smooth([x["loss"] for x in train]), color=colour, label=name)
        judged = [x for x in lines if "followed" in x.get("scores", {})]
        for axes, score in zip(panels[1:], ("followed", "kept"), strict=True):
            axes.plot(
                [x["step"] for x in judged],
                [x["scores"][score] for x in judged],
                color=colour,
                marker="o",
                markersize=3,
            )
    panels[0].legend(frameon=False, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.tick_params(labelsize=7, colors=INK)
    axes.grid(alpha=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.set_xlabel("step", fontsize=7, color=INK)
