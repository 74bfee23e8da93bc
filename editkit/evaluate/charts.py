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
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from editkit.evaluate.scores import FIGURES, kinds_of

INK = "#5b6472"
COLOURS = ("#3b6fd4", "#d9662c", "#2f9a68", "#8a4fd0", "#b0873a")
SMOOTHING = 0.9  # at most; a short curve is smoothed less, so that it does not lag

Curve = tuple[Sequence[float], Sequence[float]]  # steps, values


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, with what pace.jsonl says of the same steps; a line cut short by a kill is left out."""
    pace = {x["step"]: x for x in _json_lines(path.with_name("pace.jsonl"))}
    return [{**(pace.get(x["step"], {}) if x["kind"] == "train" else {}), **x} for x in _json_lines(path)]


def _json_lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def smooth(values: Sequence[float]) -> list[float]:
    """An exponential average that starts without bias."""
    keep = min(SMOOTHING, 1 - 6 / max(len(values), 12))
    average, weight, found = 0.0, 0.0, []
    for value in values:
        average = keep * average + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        found.append(average / weight)
    return found


def line_chart(
    title: str,
    curves: Mapping[str, Curve],
    *,
    levels: Mapping[str, float] | None = None,
    raw: Curve | None = None,
    log: bool = False,
    share: bool = False,
    zero: bool = False,
) -> Markup:
    """A small chart as an SVG element for a page that defines the colours `--soft` and `--c0`, `--c1` … of its scheme.

    Args:
        title: what is drawn, for those who cannot see it; the page writes it above.
        curves: name -> (steps, values); one with a single step is a point.
        levels: name -> value of a horizontal dashed line, for baselines.
        raw: unsmoothed points behind the first curve.
        log: logarithmic values.
        share: values are fractions of one, shown in percent.
        zero: values start at zero.
    """
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    colours = iter(COLOURS)
    if raw is not None:
        axes.plot(*raw, color=COLOURS[0], alpha=0.45, linewidth=0.9)
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, color=next(colours), linewidth=1.8, label=name, marker=_marker(len(steps)), markersize=4)
    for name, value in (levels or {}).items():
        axes.axhline(value, color=next(colours), linestyle=(0, (4, 3)), linewidth=1.4, label=name)
    _style(axes, size=10)
    _scale(axes, log=log, share=share)
    if zero and not share:
        axes.set_ylim(bottom=0)
    if len(curves) + len(levels or {}) > 1:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=10, labelcolor=INK, borderpad=0)
    steps, values = next(iter(curves.values()))
    spoken = f"{title}: {values[0]:.3g} at step {steps[0]:,}, {values[-1]:.3g} at step {steps[-1]:,}"
    return _as_element(figure, title, spoken + "".join(f"; {name} {value:.3g}" for name, value in (levels or {}).items()))


def tradeoff_chart(title: str, points: Sequence[tuple[float, float, str]], x_label: str, y_label: str) -> Markup:
    """One curve through (x, y, label) as an SVG element, every point with its label; for the same page as `line_chart`."""
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=COLOURS[0], linewidth=1.8, marker="o", markersize=5)
    for x, y, label in points:
        axes.annotate(label, (x, y), xytext=(6, 5), textcoords="offset points", fontsize=9, color=INK)
    _style(axes, size=10)
    axes.margins(0.12)
    axes.set_xlabel(x_label, fontsize=10, color=INK)
    axes.set_ylabel(y_label, fontsize=10, color=INK)
    spoken = "; ".join(f"{label}: {x_label} {x:.3f}, {y_label} {y:.3f}" for x, y, label in points)
    return _as_element(figure, title, f"{title}: {spoken}")


def comparison_chart(metrics: Mapping[str, Path], path: Path) -> None:
    """Loss, and the first two figures that were measured, of several runs in one picture."""
    figure = Figure(figsize=(12, 3.6))
    panels = figure.subplots(1, 3)
    runs = {name: read_metrics(file) for name, file in metrics.items()}
    scored = [x["scores"] for lines in runs.values() for x in lines if x.get("scores")]
    names = next((found for scores in scored if (found := kinds_of(scores)[:2])), ("followed", "kept"))
    for axes, title in zip(panels, ("loss (smoothed)", *(FIGURES[n] for n in names)), strict=True):
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        _style(axes, size=7)
    for colour, (name, lines) in zip(COLOURS * len(runs), runs.items(), strict=False):
        train = [x for x in lines if x["kind"] == "train"]
        panels[0].plot([x["step"] for x in train], smooth([x["loss"] for x in train]), color=colour, label=name)
        judged = [x for x in lines if set(names) <= x.get("scores", {}).keys()]
        for axes, score in zip(panels[1:], names, strict=True):
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


def _marker(points: int) -> str | None:
    return "o" if points < 12 else None


def _style(axes: Axes, *, size: int) -> None:
    axes.tick_params(labelsize=size, colors=INK)
    axes.grid(color=INK, alpha=0.15)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.set_xlabel("step", fontsize=size, color=INK)


def _scale(axes: Axes, *, log: bool, share: bool) -> None:
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if share:
        axes.set_ylim(-0.03, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _as_element(figure: Figure, title: str, spoken: str) -> Markup:
    """The figure as `<svg>` that takes its colours from the page and its font from the text around it."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):  # ids differ between the charts of a page
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # figure_1, axes_1: the same in every chart
    text = text.replace(INK, "var(--soft)")
    for number, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--c{number})")
    label = Markup('<svg role="img" aria-label="{}"').format(spoken)
    return label + Markup(text[len("<svg") :])
