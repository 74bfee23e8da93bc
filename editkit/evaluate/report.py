"""The report of a run: one HTML file that needs nothing else, no network and no script."""

from __future__ import annotations

import base64
import io
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from editkit.errors import UserError
from editkit.evaluate.charts import Curve, line_chart, read_metrics, smooth, tradeoff_chart
from editkit.evaluate.pages import templates
from editkit.evaluate.scores import BASELINES, FIGURES, SHARES, figure, figures_of, kinds_of
from editkit.evaluate.tradeoff import FILE as TRADEOFF_FILE
from editkit.files import write_whole

MEANINGS = {
    "followed": "of the attributes that the instructions change, how many the judge reads as asked",
    "kept": "of the other attributes, how many it still reads as they were",
    "outside_l1": "mean absolute difference to the source outside the exact mask, 0 to 1",
    "outside_psnr": "the same in decibels",
    "clip_direction": "cosine between the change of the picture and the change of its caption",
    "clip_image": "cosine between source and edit",
    "psnr": "peak signal-to-noise ratio against the target",
    "ssim": "structural similarity with the target, 1 = equal",
    "perceptual": "how differently a network of ImageNet sees edit and target, 0 = alike; no published LPIPS",
    "improved": "of the edits, how many have a higher PSNR than the source",
    "n": "unseen edits that were judged",
}
BASELINE_MEANINGS = {
    "do_nothing": "returns the source: it keeps everything and follows nothing.",
    "ignore_source": "draws from the instruction alone: it shows what following costs when nothing is kept.",
    "vae_ceiling": "is the target itself through the VAE: no method in its latents comes further.",
}
UNDRAWN = ("n", "seconds", "outside_psnr")  # counts, and what another curve already shows

GALLERY = 2  # cases in each of the groups best, median and worst
MOST_KINDS = 12  # in the gallery, so that the file stays small whatever the data calls its kinds
# Pictures are embedded as they are up to (longest side in px, bytes as PNG): those of the lab always, photographs become
# smaller WebP. So 12 kinds x 6 cases x 3 pictures and 4 sheets stay below 6 MB.
CASE_LIMIT = (256, 13_000)
SHEET_LIMIT = (2240, 450_000)


def write_report(run: Path) -> Path:
    """Writes `report.html` from what lies in the run folder.

    Args:
        run: a run folder; what is not there yet, such as an evaluation, is said to be missing.

    Returns:
        The file.

    Raises:
        UserError: the folder is not a run.
    """
    if not (run / "run.json").is_file():
        raise UserError(f"{run}: found no run.json in it; expected a folder that editkit train wrote")
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    recipe = (run / "recipe.toml").read_text(encoding="utf-8")
    evaluation = _read_json(run / "evaluation" / "scores.json")
    scores = evaluation["scores"] if evaluation else {}
    environment = templates()
    environment.filters |= {"figure": lambda value, name: figure(name, value), "words": lambda name: name.replace("_", " ")}
    html = environment.get_template("report.html.jinja").render(
        run=run.name,
        facts=facts,
        description=tomllib.loads(recipe).get("description", ""),
        summary=_summary(facts),
        evaluation=evaluation,
        headlines=_headlines(evaluation),
        kinds=kinds_of(scores),
        figures=figures_of(scores),
        meanings=MEANINGS,
        baselines=BASELINES,
        baseline_meanings=BASELINE_MEANINGS,
        shares=SHARES,
        charts=[*_tradeoff(run), *_charts(read_metrics(run / "metrics.jsonl"))],
        previews=_previews(run),
        gallery=_gallery(run),
        recipe=recipe,
    )
    path = run / "report.html"
    write_whole(path, html)
    return path


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _summary(facts: Mapping[str, Any]) -> dict[str, str]:
    """What was trained, on what, how long, where and when, as label -> text."""
    data, machine, method = facts["data"], facts["machine"], facts["method"].replace("_", " ")
    base = f"{method} on {facts['base']}" if facts["base"] else f"{method}, from nothing"
    threads = f"{machine['threads']} thread{'s' if machine['threads'] != 1 else ''}"
    samples, seconds = facts.get("samples"), facts.get("seconds")
    return {
        "Trained": f"{facts['trained_parameters']:,} parameters ({base})",
        "Data": f"{data['name']}, {data['counts']['train']:,} training examples",
        "Time": f"{_duration(seconds)} for {samples:,} samples" if seconds and samples else "not known",
        "Machine": f"{machine['name']}, {threads}" if machine["device"] == "cpu" else machine["name"],
        "Seed": str(facts["seed"]),
        "Started": _date(facts["started"]),
    }


def _duration(seconds: float) -> str:
    """Two units, as people say it: 1 h 05 min, 13 min 31 s, 9 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _date(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return f"{moment.day} {moment:%B %Y, %H:%M %Z}"


def _headlines(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The few scores to remember, each with what the baselines reach."""
    if evaluation is None:
        return []
    scores = evaluation["scores"]
    numbers = [n for n, v in scores.items() if isinstance(v, (int, float)) and n not in UNDRAWN]
    return [
        {
            "name": name,
            "value": scores.get(name),
            "baselines": {BASELINES[b]: row.get(name) for b, row in evaluation.get("baselines", {}).items()},
        }
        for name in (kinds_of(scores) or numbers)[:3]
    ]


def _tradeoff(run: Path) -> Iterator[dict[str, Any]]:
    """The curve of `editkit eval RUN --bench tradeoff`, where it was measured."""
    measured = _read_json(run / "evaluation" / TRADEOFF_FILE)
    points = [
        (point["clip_direction"], point["clip_image"], f"{point['image_guidance']:g}")
        for point in (measured["points"] if measured else [])
        if point.get("clip_direction") is not None
    ]
    if points:
        title = "following against keeping, by image guidance"
        yield {"title": title, "svg": tradeoff_chart(title, points, FIGURES["clip_direction"], FIGURES["clip_image"])}


def _charts(lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Title and picture of every curve that there is something to draw of."""
    train = [x for x in lines if x["kind"] == "train" and "loss" in x]  # a step that was passed over has none
    steps = [x["step"] for x in train]
    if train:
        losses = [x["loss"] for x in train]
        title = "loss, smoothed"
        chart = line_chart(title, {title: (steps, smooth(losses))}, raw=(steps, losses), log=min(losses) > 0)
        yield {"title": title, "svg": chart}
    yield from _score_charts(lines)
    if train:
        for key, title in (
            ("lr", "learning rate"),
            ("samples_per_s", "samples a second"),
            ("data_wait", "time spent waiting for data"),
        ):
            known = [x for x in train if key in x]
            if known:
                curve = ([x["step"] for x in known], [x[key] for x in known])
                yield {"title": title, "svg": line_chart(title, {title: curve}, share=key == "data_wait", zero=True)}


def _score_charts(lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every score by step: of the previews as a line, of the final test as a point, of the baselines as dashed lines."""
    judged = {kind: [x for x in lines if x["kind"] == kind and x.get("scores")] for kind in ("eval", "final")}
    every = judged["eval"] + judged["final"]
    cheats = next((x["baselines"] for x in reversed(every) if x.get("baselines")), {})
    found = {n for x in every for n, v in x["scores"].items() if isinstance(v, (int, float)) and n not in UNDRAWN}
    for name in [n for n in FIGURES if n in found] + sorted(found - set(FIGURES)):
        curves: dict[str, Curve] = {}
        for kind, label in (("eval", "previews"), ("final", "final test")):
            points = [(x["step"], x["scores"][name]) for x in judged[kind] if x["scores"].get(name) is not None]
            if points:
                curves[label] = ([step for step, _ in points], [value for _, value in points])
        levels = {BASELINES[b]: row[name] for b, row in cheats.items() if row.get(name) is not None}
        title = FIGURES.get(name, name.replace("_", " "))
        yield {"title": title, "svg": line_chart(title, curves, levels=levels, share=name in SHARES)}


def _previews(run: Path) -> list[dict[str, Any]]:
    """The first, the middle and the last preview, and the last guidance grid."""
    found = sorted(p for p in (run / "previews").glob("step-*.png") if not p.stem.endswith("-grid"))
    chosen = [found[0], found[len(found) // 2], found[-1]] if found else []
    grids = sorted((run / "previews").glob("step-*-grid.png"))[-1:]
    return [{"title": _title(p), "image": _data_uri(p, *SHEET_LIMIT)} for p in [*dict.fromkeys(chosen), *grids]]


def _title(path: Path) -> str:
    step = int(path.stem.split("-")[1])
    return f"Guidance grid at step {step:,}" if path.stem.endswith("-grid") else f"Step {step:,}"


def _gallery(run: Path) -> list[dict[str, Any]]:
    """For every kind of edit its best, median and worst cases; the largest kinds where there are many."""
    folder = run / "evaluation"
    if not (folder / "examples.jsonl").is_file():
        return []
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines():
        example = json.loads(line)
        by_kind.setdefault(example.get("category") or "all", []).append(example)
    largest = sorted(by_kind, key=lambda kind: (-len(by_kind[kind]), kind))[:MOST_KINDS]
    return [
        {
            "kind": kind,
            "n": len(by_kind[kind]),
            "groups": {
                title: [{**example, "pictures": _case_pictures(folder, example)} for example in cases]
                for title, cases in _picks(by_kind[kind]).items()
            },
        }
        for kind in sorted(largest)
    ]


def _picks(examples: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Best, median and worst, no case twice; all where there are too few."""
    ranked = sorted(examples, key=_quality, reverse=True)
    if len(ranked) < 3 * GALLERY:
        return {"all": ranked}
    middle = (len(ranked) - GALLERY) // 2
    return {"best": ranked[:GALLERY], "median": ranked[middle : middle + GALLERY], "worst": ranked[: -GALLERY - 1 : -1]}


def _quality(example: Mapping[str, Any]) -> tuple[float, float, str]:
    """Followed and kept count alike; among equals, what was changed outside the mask decides. Without them, the PSNR."""
    if "psnr" in example:
        return (example["psnr"], 0.0, example.get("key", ""))
    shares = [example[n] for n in ("followed", "kept") if example.get(n) is not None]
    return (sum(shares) / len(shares) if shares else 0.0, -(example.get("outside_l1") or 0.0), example.get("key", ""))


def _case_pictures(folder: Path, example: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    return {role: _data_uri(folder / example[role], *CASE_LIMIT) for role in ("source", "edit", "target")}


def _data_uri(path: Path, side: int, size: int) -> dict[str, Any] | None:
    """A picture to embed, at most `side` px long, as PNG up to `size` bytes, else as WebP, else smaller; None without one.

    It is drawn anew, so that nothing but a picture can get into a page that people pass on.
    """
    try:
        image = Image.open(path).convert("RGB")
    except (FileNotFoundError, UnidentifiedImageError):
        return None
    small = max(image.size) <= 128
    for kind, longest in (("png", side), ("webp", side), ("webp", side // 2)):
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, kind, optimize=True, quality=80)
        if stream.tell() <= size:
            break
    text = base64.b64encode(stream.getvalue()).decode()
    return {"uri": f"data:image/{kind};base64,{text}", "width": image.width, "height": image.height, "small": small}
