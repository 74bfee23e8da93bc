"""The report of a run: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from editkit.evaluate.charts import line_chart, read_metrics, smooth
from editkit.evaluate.scores import BASELINES, FIGURES, figure

MEANINGS = {
    "followed": "share of the attributes that the instruction changes which the judge reads as asked",
    "kept": "share of the other attributes which the judge still reads as they were",
    "outside_l1": "mean absolute difference to the source outside the exact mask of the edit, 0 to 1",
    "outside_psnr": "the same in decibels",
    "clip_direction": "cosine between the change of the picture and the change of its caption",
    "clip_image": "cosine between source and edit",
}
BASELINE_MEANINGS = {
    "do_nothing": "returns the source: keeps everything, follows nothing",
    "ignore_source": "draws from the instruction alone: what following costs when nothing is kept",
}
GALLERY = 3  # cases of each kind: worst, median and best


def write_report(run: Path) -> Path:
    """Writes `report.html` from what lies in the run folder.

    Args:
        run: a run folder; an evaluation is shown where there is one, and its absence is said.

    Returns:
        The file.
    """
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    lines = read_metrics(run / "metrics.jsonl")
    evaluation = _read_json(run / "evaluation" / "scores.json")
    environment = Environment(
        loader=PackageLoader("editkit.evaluate", "."),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda value, name: figure(name, value)
    html = environment.get_template("report.html.jinja").render(
        run=run.name,
        facts=facts,
        minutes=round(facts.get("seconds", 0) / 60, 1),
        evaluation=evaluation,
        figures=FIGURES,
        meanings=MEANINGS,
        baselines=BASELINES,
        baseline_meanings=BASELINE_MEANINGS,
        charts=[Markup(svg) for svg in _charts(lines)],
        previews=_previews(run),
        gallery=_gallery(run),
        recipe=(run / "recipe.toml").read_text(encoding="utf-8"),
    )
    path = run / "report.html"
    staging = run / "report.html.staging"
    staging.write_text(html, encoding="utf-8")
    staging.replace(path)
    return path


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _charts(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    train = [x for x in lines if x["kind"] == "train"]
    charts = []
    if train:
        steps = [x["step"] for x in train]
        losses = [x["loss"] for x in train]
        charts.append(line_chart("loss", {"smoothed": (steps, smooth(losses))}, raw=(steps, losses), log=min(losses) > 0))
        charts.append(line_chart("learning rate", {"lr": (steps, [x["lr"] for x in train])}))
        charts.append(line_chart("samples a second", {"rate": (steps, [x["samples_per_s"] for x in train])}))
        charts.append(line_chart("share of time spent waiting for data", {"wait": (steps, [x["data_wait"] for x in train])}))
    judged = [x for x in lines if x["kind"] in ("eval", "final") and x.get("scores")]
    names = (
        [n for n, v in judged[0]["scores"].items() if isinstance(v, (int, float)) and n not in ("n", "seconds")]
        if judged
        else []
    )
    for name in names:
        points = [(x["step"], x["scores"][name]) for x in judged if x["scores"].get(name) is not None]
        levels = {
            BASELINES[b]: s[name]
            for b, s in judged[-1].get("baselines", {}).items()
            if b in BASELINES and s.get(name) is not None
        }
        if points:
            steps, values = zip(*points, strict=True)
            charts.append(line_chart(FIGURES.get(name, name), {"run": (steps, values)}, levels=levels))
    return charts


def _previews(run: Path) -> list[dict[str, str]]:
    """The first, the middle and the last preview, and the last guidance grid."""
    found = sorted(p for p in (run / "previews").glob("step-*.png") if not p.stem.endswith("-grid"))
    chosen = list(dict.fromkeys([found[0], found[len(found) // 2], found[-1]])) if found else []
    grids = sorted((run / "previews").glob("step-*-grid.png"))[-1:]
    return [{"title": _title(p), "image": _data_uri(p)} for p in chosen + grids]


def _title(path: Path) -> str:
    step = int(path.stem.split("-")[1])
    return f"guidance grid, step {step}" if path.stem.endswith("-grid") else f"step {step}"


def _gallery(run: Path) -> list[dict[str, Any]]:
    """For every kind of edit its worst, median and best cases."""
    folder = run / "evaluation"
    if not (folder / "examples.jsonl").is_file():
        return []
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        by_kind.setdefault(example["category"] or "all", []).append(example)
    return [
        {
            "kind": kind,
            "groups": [
                {"title": title, "cases": [_case(folder, e) for e in cases]} for title, cases in _picks(examples).items()
            ],
        }
        for kind, examples in sorted(by_kind.items())
    ]


def _picks(examples: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    ranked = sorted(examples, key=_quality)
    if len(ranked) < 3 * GALLERY:
        return {"all": ranked}
    middle = len(ranked) // 2 - GALLERY // 2
    return {"worst": ranked[:GALLERY], "median": ranked[middle : middle + GALLERY], "best": ranked[-GALLERY:]}


def _quality(example: Mapping[str, Any]) -> tuple[float, float, str]:
    shares = [example[n] for n in ("followed", "kept") if example[n] is not None]
    return (sum(shares) / len(shares) if shares else 0.0, -(example["outside_l1"] or 0.0), example["key"])


def _case(folder: Path, example: Mapping[str, Any]) -> dict[str, Any]:
    pictures = [{"role": r, "image": _data_uri(folder / example[r])} for r in ("source", "edit", "target")]
    return {"instruction": example["instruction"], "wrong": example["wrong"], "pictures": pictures}


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
